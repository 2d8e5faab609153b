"""A tiny run that keeps the contract between module, data module and watchers: three classes of blurred blobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.views import Views

NAMES = ["disc", "bar <b>", "ring & co"]


def blobs(count: int, channels: int = 3, side: int = 16) -> tuple[Tensor, Tensor]:
    """[N, C, side, side] images in [0, 1] of three shapes, and [N] their labels."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(count) % 3
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    dx, dy = torch.rand(2, count, 1, 1, generator=generator) * 0.6 - 0.3
    radius = ((x - dx) ** 2 + (y - dy) ** 2).sqrt()
    shapes = torch.stack([torch.sigmoid(20 * (0.4 - radius)), torch.exp(-30 * (x - dx) ** 2).expand(count, side, side)])
    shapes = torch.cat([shapes, torch.exp(-60 * (radius - 0.5) ** 2)[None]])
    images = shapes[label, torch.arange(count)][:, None] * torch.rand(count, channels, 1, 1, generator=generator)
    return (images + 0.1 * torch.rand(images.shape, generator=generator)).clamp(0, 1), label


class Batches(torch.utils.data.Dataset):
    """Ready-made batches of `Views`."""

    def __init__(self, images: Tensor, label: Tensor, size: int, views: int) -> None:
        self.images, self.label, self.size, self.views = images, label, size, views

    def __len__(self) -> int:
        return len(self.label) // self.size

    def __getitem__(self, i: int) -> Views:
        rows = torch.arange(i * self.size, (i + 1) * self.size)
        images = (self.images[rows] - 0.5) / 0.25
        flipped = [images if view == 0 else images.flip(-1) + 0.1 * view for view in range(self.views)]
        return Views(flipped, self.label[rows], rows)


class BlobData(LightningDataModule):
    """Blobs, normalised with mean 0.5 and deviation 0.25."""

    def __init__(self, count: int = 96, channels: int = 3, side: int = 16, labelled: bool = True) -> None:
        super().__init__()
        self.images, self.label = blobs(count, channels, side)
        if not labelled:
            self.label = torch.full_like(self.label, -1)
        self.batch_size = 16
        self.num_classes = 3 if labelled else None
        self.class_names = NAMES if labelled else None
        self.mean, self.std = [0.5] * channels, [0.25] * channels

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Batches(self.images, self.label, self.batch_size, 2), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Batches(self.images, self.label, self.batch_size, 1), batch_size=None)

    test_dataloader = val_dataloader

    def clean_batches(
        self, split: str, device: torch.device, max_images: int | None = None, raw: bool = False
    ) -> Iterator[Views]:
        yield from (batch for batch in Batches(self.images, self.label, self.batch_size, 1))


class ToyModule(LightningModule):
    """Pulls two views together; logs a loss and a rate."""

    def __init__(self, channels: int = 3, side: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, 32), nn.ReLU(), nn.Linear(32, 8))

    def training_step(self, batch: Views, batch_idx: int) -> dict[str, Any]:
        a, b = (self.net(view) for view in batch.global_views)
        loss = (a - b).pow(2).mean() + (a.std(0) - 1).pow(2).mean()
        self.log("train/loss", loss, batch_size=len(a))
        self.log("train/lr", self.optimizers().param_groups[0]["lr"], batch_size=len(a))
        return {"loss": loss, "features": a.detach(), "label": batch.label, "index": batch.index}

    def validation_step(self, batch: Views, batch_idx: int) -> dict[str, Tensor]:
        return {"features": self.net(batch.global_views[0]), "label": batch.label, "index": batch.index}

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02)


class ToyMonitor(Callback):
    """Logs what the watchers log, from made-up numbers that rise with the steps."""

    verdict = "The representation is healthy: 7.1 of 8 directions are in use."

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rise = 1 - 0.97 ** (trainer.global_step + 1)
        values = {
            "knn/val_top1": 0.5 + 0.4 * rise,
            "knn/untrained_top1": 0.57,
            "knn/pixels_top1": 0.47,
            "probe/val_top1": 0.4 + 0.5 * rise,
            "representation/feature_std": 0.3 + 0.05 * rise,
            "representation/effective_rank": 3.0 + 4 * rise,
        }
        for name, value in values.items():
            self.log(name, value, sync_dist=False)


def toy_trainer(folder: Path, callbacks: list[Callback], epochs: int = 2, **arguments: Any) -> Trainer:
    """A CPU trainer whose run folder is `folder`/run."""
    defaults: dict[str, Any] = {
        "logger": CSVLogger(folder, name="", version="run"),
        "enable_progress_bar": any("ProgressBar" in type(callback).__name__ for callback in callbacks),
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 1,
    }
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=callbacks,
        default_root_dir=folder,
        **defaults | arguments,
    )
