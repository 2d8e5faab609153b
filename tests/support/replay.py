"""Prepared features in place of a network's, so that what a watcher should report can be worked out by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.views import Views


def batches(features: Tensor, label: Tensor, size: int, positives: Tensor | None = None) -> list[Views]:
    """[N, D] features, and those of another view, in batches; they ride where images would."""
    views = [features] if positives is None else [features, positives]
    whole = Views(views, label, torch.arange(len(label)))
    return [whole.rows(start, start + size) for start in range(0, len(label), size)]


class Replay(LightningModule):
    """Hands on the features of each batch; trains one number that nothing depends on."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.number = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return images

    def training_step(self, batch: Views, batch_idx: int) -> dict[str, Any]:
        positives = batch.global_views[1] if len(batch.global_views) > 1 else None
        watched = {"features": batch.global_views[0], "positives": positives, "label": batch.label}
        return {"loss": self.number**2, "enqueue": {}, "index": batch.index, **watched}

    def validation_step(self, batch: Views, batch_idx: int) -> dict[str, Tensor]:
        return {"features": self(batch.global_views[0]), "label": batch.label, "index": batch.index}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Prepared(LightningDataModule):
    """Batches made beforehand, in order."""

    def __init__(self, train: list[Views], val: list[Views], num_classes: int | None) -> None:
        super().__init__()
        self.train, self.val, self.num_classes = train, val, num_classes
        self.batch_size = len(train[0].label)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=None)

    def clean_batches(
        self, split: str, device: torch.device, max_images: int | None = None, raw: bool = False
    ) -> Iterator[Views]:
        yield from self.train if split == "train" else self.val


def quiet_trainer(callbacks: list[Callback], **arguments: Any) -> Trainer:
    """One epoch on the CPU, without files, bars and sanity checks."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    return Trainer(callbacks=callbacks, **defaults | arguments)


def watch(callback: Callback, data: LightningDataModule, ckpt_path: Path | None = None, **arguments: Any) -> Trainer:
    """Trains on prepared features under the eye of one watcher; the trainer knows what was logged."""
    trainer = quiet_trainer([callback], **arguments)
    module = Replay(next(iter(data.train_dataloader())).global_views[0].shape[1])
    trainer.fit(module, datamodule=data, ckpt_path=None if ckpt_path is None else str(ckpt_path))
    return trainer
