"""Small data sets and a module that remembers the batches it was given."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from datamodules import ImageDataModule
from datamodules.decode import UnreadableError
from datamodules.sources import ArraySource, Source
from datamodules.views import Views


def pixels(num_images: int, channels: int = 3, size: int = 16, seed: int = 0) -> Tensor:
    """[N, C, size, size] uint8: smooth patterns, as different interpolations agree on them."""
    coarse = torch.rand(num_images, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear").mul(255).to(torch.uint8)


class BadSource(Source):
    """Images of which some cannot be read."""

    def __init__(self, images: Tensor, bad: set[int]) -> None:
        self.images = images
        self.bad = bad
        self.labels = torch.arange(len(images)) % 3
        self.class_names = ["a", "b", "c"]

    def image(self, i: int) -> Tensor:
        if i in self.bad:
            raise UnreadableError(self.name(i), "it is broken")
        return self.images[i]

    def name(self, i: int) -> str:
        return f"picture {i}"


class Toy(ImageDataModule):
    """Given training images; validation has half as many."""

    default_image_size = 16
    default_mean = (0.5, 0.5, 0.5)
    default_std = (0.25, 0.25, 0.25)

    def __init__(self, num_images: int = 40, bad: Iterable[int] = (), bad_val: Iterable[int] = (), **base: Any) -> None:
        small: dict[str, Any] = {"batch_size": 8, "eval_batch_size": 8, "num_workers": 0}
        super().__init__(**(small | base))
        self.num_images = num_images
        self.bad, self.bad_val = set(bad), set(bad_val)

    def sources(self) -> tuple[Source, Source]:
        n = self.num_images
        return (
            BadSource(pixels(n, self.num_channels), self.bad),
            BadSource(pixels(n // 2, self.num_channels, seed=1), self.bad_val),
        )


class Stereo(Toy):
    """Images of two channels."""

    num_channels = 2
    default_mean = (0.5, 0.5)
    default_std = (0.25, 0.25)

    def sources(self) -> tuple[Source, Source]:
        labels = torch.zeros(self.num_images, dtype=torch.int64)
        source = ArraySource(pixels(self.num_images, 2), labels, None, "stereo")
        return source, source


class Recorder(LightningModule):
    """Remembers what it was given: [(step, batch)]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.train_batches: list[tuple[int, Views]] = []
        self.other_batches: list[Views] = []

    def training_step(self, batch: Views, batch_idx: int) -> Tensor:
        self.train_batches.append((self.global_step, batch))
        return self.layer(batch.global_views[0].mean().view(1, 1)).sum()

    def validation_step(self, batch: Views, batch_idx: int) -> None:
        self.other_batches.append(batch)

    def test_step(self, batch: Views, batch_idx: int) -> None:
        self.other_batches.append(batch)

    def predict_step(self, batch: Views, batch_idx: int) -> int:
        self.other_batches.append(batch)
        return 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches  # makes the loader, before a checkpoint's counters are restored
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options: Any) -> Trainer:
    """A silent trainer on the CPU."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(**(quiet | {"enable_checkpointing": False, "max_epochs": 1} | options))


def epoch(data: ImageDataModule) -> list[Views]:
    """The training batches of the first epoch, without a trainer."""
    data.setup("fit")
    return [_views(data, batch) for batch in data.train_dataloader()]


def _views(data: ImageDataModule, batch: Any) -> Views:
    return data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)


def write_picture(path: Any, size: tuple[int, int] = (20, 16), seed: int = 0) -> None:
    """A picture file, its format by its suffix."""
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(path)
