"""A minute of the run itself: the data alone, the steps alone, and both together."""

from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from callbacks.report.sample import ViewSample
from datamodules.views import Views
from scripts.checkup.clocks import DataClock, StepClock
from scripts.checkup.facts import DataFacts, Measured
from scripts.checkup.images import data_facts
from scripts.checkup.memory import PeakMemory, nbytes


class Trial(Checkpoint):
    """Measures from within a fit, and ends it when its time is over.

    A `Checkpoint`, which writes nothing, because Lightning runs those last: what ends a step, such as the teacher's
    update, has then happened.

    Attributes:
        data: what the images are like; known once the data module is set up.
        batches: of an epoch on this one rank; known once training starts.
        views: some views as the network gets them; None if the data module makes other batches.
        measured: times and bytes; None where the run ended before they were known.
    """

    def __init__(self, seconds: float) -> None:
        """
        Args:
            seconds: that each of the three timings takes.
        """
        self.data = DataFacts()
        self.batches: float | None = None
        self.views: ViewSample | None = None
        self.measured: Measured | None = None
        self._seconds = seconds

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks at the images."""
        data = _data(trainer)
        try:
            val_loader = data.val_dataloader()
        except MisconfigurationException:  # Lightning's answer of a data module that has none
            val_loader = None
        self.data = data_facts(data, data.train_dataloader(), val_loader)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Times the data alone: the trainer's own loader has not begun yet."""
        self.batches = trainer.num_training_batches
        device = pl_module.device
        self._time_data(_data(trainer), device)
        self._memory = PeakMemory(device)
        self._memory.start()
        self._steps = StepClock(self._seconds, trainer.accumulate_grad_batches, lambda: wait_for(device))

    def _time_data(self, data: LightningDataModule, device: torch.device) -> None:
        loader = data.train_dataloader()
        self._loading = DataClock(self._seconds, getattr(loader, "num_workers", 0))
        for batch in _endless(loader):
            self._loading.loaded()
            batch = data.transfer_batch_to_device(data.on_before_batch_transfer(batch, 0), device, 0)
            views = data.on_after_batch_transfer(batch, 0)
            wait_for(device)
            enough = self._loading.made()
            if self.views is None and isinstance(views, Views):
                self.views = ViewSample(views, data)
            if enough:
                return

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """A batch is there, with its views on the device."""
        self._steps.begin()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Ends the fit when enough is known."""
        self._steps.end()
        if self._steps.phase == "over":
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sums up, also where the run was over first."""
        self._steps.finish()
        self._memory.stop()
        loading, steps = self._loading, self._steps
        if not (loading.batches and steps.steps and steps.loops):
            return
        state = [value for entry in trainer.optimizers[0].state.values() for value in entry.values()]
        weights = nbytes(pl_module.state_dict().values())
        self.measured = Measured(
            images=self.data.batch_size or 0,
            loader_seconds=loading.loader_seconds / loading.batches,
            views_seconds=loading.views_seconds / loading.batches,
            step_seconds=steps.step_seconds / steps.steps,
            loop_seconds=steps.loop_seconds / steps.loops,
            timed=(loading.batches, steps.steps, steps.loops),
            parameter_bytes=weights,
            optimizer_bytes=nbytes(state),
            checkpoint_bytes=weights + nbytes(state),
            memory_before=self._memory.before,
            memory_peak=self._memory.peak,
            memory_total=self._memory.total,
        )


def wait_for(device: torch.device) -> None:
    """Returns when the device has done all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _data(trainer: Trainer) -> LightningDataModule:
    return trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]


def _endless(loader: Any) -> Iterator[Any]:
    """The loader's batches, epoch after epoch."""
    while True:
        yield from loader
