"""How long a run is planned to be: kept in its checkpoints, since its schedules follow from it."""

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch.optim.lr_scheduler import LambdaLR

from callbacks.start_checks import check_ranks, check_validation, check_windows
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
        num_train_images: images in the training set; None as above.
        seed: the run's; of it and the number of images follows the order within an epoch. None as above.
    """

    epochs: int
    max_steps: int
    steps_per_epoch: float
    batch: int | None
    global_batch_size: int | None = None
    num_train_images: int | None = None
    seed: int | None = None

    @classmethod
    def of(cls, trainer: Trainer) -> "Plan":
        """The plan of a run whose data is set up."""
        data = getattr(trainer, "datamodule", None)
        batch = getattr(data, "batch_size", None)
        global_batch_size = None if batch is None else batch * trainer.world_size
        batches, window = trainer.num_training_batches, trainer.accumulate_grad_batches
        return cls(
            epochs=NO_LIMIT if trainer.max_epochs is None else trainer.max_epochs,
            max_steps=trainer.max_steps,
            steps_per_epoch=math.ceil(batches / window) if math.isfinite(batches) else batches,
            batch=None if global_batch_size is None else global_batch_size * window,
            global_batch_size=global_batch_size,
            num_train_images=getattr(data, "num_train_images", None),
            seed=int(os.environ.get("PL_GLOBAL_SEED", 0)),  # where Lightning keeps it
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
    def order(self) -> str:
        """What the order of the images follows from, in words."""
        return f"{self.num_train_images:,} images in the order of seed {self.seed}"

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
                they begin; there are several validation sets; or checkpoints would be written amid the batches of a
                step.
        """
        check_ranks(trainer)  # first: any other exchange between ranks may hang, or mix up what they send
        check_validation(trainer)
        self.plan, before, self._before = Plan.of(trainer), self._before, None
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        check_windows(trainer)
        if before is None:
            return
        _check_epoch(before, self.plan)
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        _check_order(before, self.plan, amid_epoch=0 < done < trainer.num_training_batches)
        if not self.extend:
            check_length(before, self.plan, "The checkpoint")
        elif self.plan.steps != before.steps:
            _plan_anew(trainer, before, self.plan)


def _check_epoch(before: Plan, now: Plan) -> None:
    """An epoch must be of the same steps, and a step of the same images: nothing else says where in it a run stands."""
    known = [name for name in ("steps_per_epoch", "batch", "global_batch_size") if getattr(before, name) is not None]
    if any(getattr(now, name) != getattr(before, name) for name in known):
        raise UserError(
            f"The checkpoint is of epochs of {before.epoch}, and these flags give {now.epoch}: the run would lose "
            "its place. Give the same images and --trainer.limit_train_batches, the same --data.batch_size times "
            "ranks, and the same --trainer.accumulate_grad_batches."
        )


def _check_order(before: Plan, now: Plan, amid_epoch: bool) -> None:
    """An epoch must be finished in the order that it was begun in; the next one may have another."""
    if None in (before.num_train_images, before.seed, now.num_train_images) or before.order == now.order:
        return
    if amid_epoch:
        raise UserError(
            f"The checkpoint stands amid an epoch of {before.order}, and these flags give {now.order}: the run would "
            "see some images twice and others not at all. Give the same images and --seed_everything, or a checkpoint "
            "of the end of an epoch."
        )
    rank_zero_warn(f"The checkpoint is of epochs of {before.order}; from here on they are of {now.order}.")


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
