"""What is refused before the first step: what no run could be resumed from, and ranks that do not begin alike."""

import math

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules.errors import UserError


def _savers(trainer: Trainer) -> list[ModelCheckpoint]:
    return [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]


def check_ranks(trainer: Trainer) -> None:
    """All ranks must begin at the same place, in the same images: each has looked in what its own machine sees."""
    if trainer.world_size == 1:
        return
    ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    places = _ranks_by(trainer, trainer.global_step, trainer.current_epoch, ready)
    if len(places) > 1:
        told = [f"at step {step:,} (epoch {epoch}, batch {n}) {ranks}" for (step, epoch, n), ranks in places.items()]
        raise UserError(
            f"The ranks do not begin at the same place: {'; '.join(told)}. --trainer.default_root_dir must be a folder "
            "that all machines see alike; or give --ckpt_path the path of a checkpoint that each of them can read."
        )
    data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    images = _ranks_by(trainer, getattr(data, "num_train_images", 0))
    if len(images) > 1:
        told = [f"{number:,} training images {ranks}" for (number,), ranks in images.items()]
        raise UserError(
            f"The ranks do not see the same data: {'; '.join(told)}. Each machine has to have all files: "
            "copy them anew where there are fewer, or give a --data.path that all machines share."
        )


def _ranks_by(trainer: Trainer, *numbers: int) -> dict[tuple[int, ...], str]:
    """What the ranks give -> which of them give it, in words."""
    own = torch.tensor(numbers, device=trainer.strategy.root_device)
    ranks: dict[tuple[int, ...], list[str]] = {}
    for rank, given in enumerate(trainer.strategy.all_gather(own).tolist()):
        ranks.setdefault(tuple(given), []).append(str(rank))
    return {given: f"{'ranks' if len(of) > 1 else 'rank'} {', '.join(of)}" for given, of in ranks.items()}


def check_validation(trainer: Trainer) -> None:
    """The watchers judge one set of images: figures of several would be pooled under one name."""
    if (sets := len(trainer.num_val_batches)) > 1:
        raise UserError(
            f"val_dataloader() of {type(trainer.datamodule).__name__} gives {sets} loaders; training is watched on one "  # pyright: ignore[reportAttributeAccessIssue]
            "set of images: give that one, and judge the run's checkpoint on others with scripts/evaluate.py --data."
        )


def check_windows(trainer: Trainer) -> None:
    """Nothing may be saved amid the batches of a step: gradients are not in a checkpoint."""
    window = trainer.accumulate_grad_batches
    if window == 1:
        return
    flag = f"--trainer.accumulate_grad_batches {window}"
    if trainer.enable_validation and _validates_within(trainer, window):
        raise UserError(
            f"--trainer.val_check_interval validates, and saves, amid the batches of a step with {flag}, and no "
            f"checkpoint holds the gradients so far. Leave it out, or give a multiple of {window} batches; with "
            "--trainer.check_val_every_n_epoch null an epoch must have such a number, too."
        )
    if any(saver._train_time_interval is not None for saver in _savers(trainer)):
        raise UserError(
            f"A ModelCheckpoint with train_time_interval saves amid the batches of a step with {flag}, and no "
            "checkpoint holds the gradients so far. Give it every_n_train_steps instead."
        )


def _validates_within(trainer: Trainer, window: int) -> bool:
    """Whether any validation amid an epoch falls between the batches of a step."""
    batches, every = trainer.num_training_batches, trainer.val_check_batch
    if every is None:  # by the clock
        return True
    if trainer.check_val_every_n_epoch is None and math.isfinite(batches) and math.isfinite(every):
        every = math.gcd(int(batches), int(every))  # counted on from epoch to epoch, it comes to all multiples of this
    return every < batches and every % window != 0
