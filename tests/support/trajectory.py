"""Replays a recorded run of an authors' code on one of our methods, through the real Trainer and its callbacks."""

import contextlib
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.base import SSLModule

TINY = BackboneConfig("tests.support.trajectory.LinBNReLU", options={"inputs": 6, "width": 10})


class LinBNReLU(nn.Module):
    """The goldens' stand-in for a ResNet: [B, inputs] to [B, width]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.feature_dim = width
        self.lin = nn.Linear(inputs, width, bias=False)
        self.bn = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.lin(x)).relu()


class Recorded(LightningDataModule):
    """The recorded inputs, a batch a step, in their order; on several ranks each takes its part of the rows."""

    def __init__(self, views: list[Tensor], labels: Tensor | None, steps_per_epoch: int, rank: int, ranks: int) -> None:
        super().__init__()
        steps, B = views[0].shape[:2]
        labels = torch.full((steps, B), -1) if labels is None else labels
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = B // ranks
        rows = slice(rank * self.batch_size, (rank + 1) * self.batch_size)
        index = torch.arange(B)[rows]
        self.batches = [Views([view[step][rows] for view in views], labels[step][rows], index) for step in range(steps)]

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        start = self.trainer.current_epoch * self.steps_per_epoch
        epoch = [self.batches[step % len(self.batches)] for step in range(start, start + self.steps_per_epoch)]
        return DataLoader(epoch, batch_size=None)  # pyright: ignore[reportArgumentType]


class Recorder(Callback):
    """The loss and learning rates of each step, and what `read` sees of the module after it."""

    def __init__(self, read: Callable[[Any], dict[str, Tensor]], steps: int) -> None:
        self.read = read
        self.steps = steps
        self.history: dict[str, list[Tensor]] = {}

    def _add(self, **values: Any) -> None:
        for name, value in values.items():
            self.history.setdefault(name, []).append(torch.as_tensor(value).detach().clone())

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step:
            self._add(**self.read(pl_module))  # only now have all callbacks acted on the step before
        if trainer.global_step == self.steps:
            raise RecordingEndedError
        self._add(lr=torch.tensor([g["lr"] for g in trainer.optimizers[0].param_groups], dtype=torch.float64))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self._add(loss=outputs["loss"])

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._add(**self.read(pl_module))  # the run ended with the recording


class RecordingEndedError(Exception):
    """The recording is shorter than the run."""


def replay(
    module: SSLModule,
    views: list[Tensor],
    read: Callable[[Any], dict[str, Tensor]],
    labels: Tensor | None = None,
    steps_per_epoch: int | None = None,
    total_epochs: int = 1,
    ranks: int = 1,
    rank: int = 0,
) -> dict[str, Tensor]:
    """Trains on the recorded views in float64.

    Args:
        module: the method, with its golden weights.
        views: for each view [steps, B, ...], the whole batch.
        read: what to record of the module after each step.
        labels: [steps, B], where the recording has them.
        steps_per_epoch: of the schedules; by default all steps make an epoch.
        total_epochs: of the schedules; the replay stops when the recorded steps are through.
        ranks: number of ranks of this run.
        rank: this one.

    Returns:
        `loss` [steps], `lr` [steps, groups], and what was read, each [steps, ...].
    """
    if ranks > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), TORCHELASTIC_RUN_ID="tests")
    steps = len(views[0])
    recorder = Recorder(read, steps)
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        precision="64-true",
        max_epochs=total_epochs,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(val_dataloader|many workers|DDP with CPU).*")
        with contextlib.suppress(RecordingEndedError):
            trainer.fit(module, datamodule=Recorded(views, labels, steps_per_epoch or steps, rank, ranks))
    return {name: torch.stack(values) for name, values in recorder.history.items()}
