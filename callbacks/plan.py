"""How long a run is planned to be: kept in its checkpoints, since its schedules follow from it."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info
from torch.optim.lr_scheduler import LambdaLR

from datamodules.errors import UserError

NO_LIMIT = -1  # Lightning's word for it


@dataclass(frozen=True)
class Plan:
    """What decides where in its schedules a run is after so many optimiser steps.

    Attributes:
        epochs: most epochs, -1 for any number.
        max_steps: most optimiser steps, -1 for any number.
        steps_per_epoch: optimiser steps in an epoch; infinite for data of unknown length.
        batch: images per optimiser step, over all ranks and accumulated batches; None where it is not known.
        global_batch_size: images that the loaders of all ranks give at a time, by which a run's place in its epoch is
            counted; None where it is not known, as from older checkpoints.
    """

    epochs: int
    max_steps: int
    steps_per_epoch: float
    batch: int | None
    global_batch_size: int | None = None

    @classmethod
    def of(cls, trainer: Trainer) -> "Plan":
        """The plan of a run whose data is set up."""
        batch = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
        global_batch_size = None if batch is None else batch * trainer.world_size
        batches, window = trainer.num_training_batches, trainer.accumulate_grad_batches
        return cls(
            epochs=NO_LIMIT if trainer.max_epochs is None else trainer.max_epochs,
            max_steps=trainer.max_steps,
            steps_per_epoch=math.ceil(batches / window) if math.isfinite(batches) else batches,
            batch=None if global_batch_size is None else global_batch_size * window,
            global_batch_size=global_batch_size,
        )

    @property
    def steps(self) -> float:
        """Optimiser steps from beginning to end, infinite for a run without an end."""
        by_epochs = math.inf if self.epochs == NO_LIMIT else self.epochs * self.steps_per_epoch
        return min(by_epochs, math.inf if self.max_steps == NO_LIMIT else self.max_steps)

    def __str__(self) -> str:
        if math.isinf(self.steps):
            return "no set number of steps"
        epochs = "" if self.epochs == NO_LIMIT else f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}, "
        return f"{epochs}{self.steps:,} steps"

    @property
    def epoch(self) -> str:
        """What an epoch is made of, in words."""
        at_a_time = "" if self.global_batch_size in (None, self.batch) else f", {self.global_batch_size} at a time"
        return f"{self.steps_per_epoch:g} steps of {self.batch} images{at_a_time}"

    @property
    def flags(self) -> str:
        """What makes a run this long."""
        limits = {"max_epochs": self.epochs, "max_steps": self.max_steps}
        set_ones = {name: value for name, value in limits.items() if value != NO_LIMIT} or {"max_epochs": NO_LIMIT}
        return " ".join(f"--trainer.{name} {value}" for name, value in set_ones.items())


def check_length(there: Plan, here: Plan, checkpoint: str) -> None:
    """Refuses to go on to another end than was planned: the rate would jump to another curve without a word.

    Args:
        there: the plan in the checkpoint.
        here: the plan of the flags at hand.
        checkpoint: its name in the message.

    Raises:
        UserError: with both plans, and what to do.
    """
    if here.steps != there.steps:
        raise UserError(
            f"{checkpoint} is of a run planned for {there}, and these flags make it {here}: give {there.flags} to "
            "finish it as planned, or --extend true to plan its schedules anew over the other length."
        )


class RunPlan(Callback):
    """Writes the plan into every checkpoint, and lets a resumed run follow no other, unless it is to be extended.

    Extended, a run is from its next step on where an uninterrupted one of the new length would be in its schedules:
    learning rate, weight decay, and whatever follows the share of the run that is done, as a teacher's momentum.

    Before the first step it also refuses what no run could be resumed from, or has not been on all ranks alike.
    """

    def __init__(self, extend: bool = False) -> None:
        """
        Args:
            extend: whether the run may have another length than the one that it goes on from.
        """
        self.extend = extend
        self.plan: Plan | None = None
        self._before: Plan | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the plan, outside the callbacks' states, so that it can be read without this class."""
        if self.plan is not None:
            checkpoint["plan"] = asdict(self.plan)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the checkpoint's plan until that of this run is known."""
        self._before = Plan(**checkpoint["plan"]) if "plan" in checkpoint else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares the plans, with everything restored and before the first step.

        Raises:
            UserError: they differ in a way that was not asked for, or in one that no flag allows; ranks differ in where
                they begin; or checkpoints would be written amid the batches of a step.
        """
        _check_ranks(trainer)  # first: any other exchange between ranks may hang, or mix up what they send
        self.plan, before, self._before = Plan.of(trainer), self._before, None
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        _check_windows(trainer)
        if before is None:
            return
        _check_epoch(before, self.plan)
        if not self.extend:
            check_length(before, self.plan, "The checkpoint")
        elif self.plan.steps != before.steps:
            _plan_anew(trainer, before, self.plan)


def _savers(trainer: Trainer) -> list[ModelCheckpoint]:
    return [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]


def _check_ranks(trainer: Trainer) -> None:
    """All ranks must begin at the same place: each has looked for a checkpoint by itself, in what its machine sees."""
    if trainer.world_size == 1:
        return
    ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    own = torch.tensor([trainer.global_step, trainer.current_epoch, ready], device=trainer.strategy.root_device)
    ranks_at: dict[tuple[int, ...], list[str]] = {}
    for rank, place in enumerate(trainer.strategy.all_gather(own).tolist()):
        ranks_at.setdefault(tuple(place), []).append(str(rank))
    if len(ranks_at) > 1:
        places = "; ".join(
            f"at step {step:,} (epoch {epoch}, batch {batch}) rank{'s' if len(ranks) > 1 else ''} {', '.join(ranks)}"
            for (step, epoch, batch), ranks in ranks_at.items()
        )
        raise UserError(
            f"The ranks do not begin at the same place: {places}. --trainer.default_root_dir must be a folder that all "
            "machines see alike; or give --ckpt_path the path of a checkpoint that each of them can read."
        )


def _check_windows(trainer: Trainer) -> None:
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


def _check_epoch(before: Plan, now: Plan) -> None:
    """An epoch must be of the same steps, and a step of the same images: nothing else says where in it a run stands."""
    known = replace(now, global_batch_size=None) if before.global_batch_size is None else now
    if replace(known, epochs=before.epochs, max_steps=before.max_steps) != before:
        raise UserError(
            f"The checkpoint is of epochs of {before.epoch}, and these flags give {known.epoch}: the run would lose "
            "its place. Give the same images and --trainer.limit_train_batches, the same --data.batch_size times "
            "ranks, and the same --trainer.accumulate_grad_batches."
        )


def _plan_anew(trainer: Trainer, before: Plan, now: Plan) -> None:
    """Sets the coming step's rate and decay by the new schedule: the checkpoint brought those of the old. Says so."""
    step = trainer.global_step
    old = trainer.optimizers[0].param_groups[0]["lr"]
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, LambdaLR) and step:
            config.scheduler.last_epoch -= 1
            config.scheduler.step()
            config.scheduler._step_count -= 1
    new = trainer.optimizers[0].param_groups[0]["lr"]
    share = "" if math.isinf(now.steps) else f", {step / now.steps:.0%} of the way"
    rank_zero_info(
        f"Extended from {before} to {now}: now at step {step:,}{share}; the learning rate goes from {old:g}, where the "
        f"old schedule had come to, to {new:g}."
    )
