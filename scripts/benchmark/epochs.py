"""What both sides of a comparison of whole training runs share: the images, and the clock that runs beside them."""

import json
import multiprocessing
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.cifar import CIFAR10
from datamodules.sources import ArraySource, Source, subset_rows

VAL_IMAGES = 256  # no run validates, but every data set has some


@dataclass(frozen=True)
class Run:
    """What is trained; plain values, so that it can be handed to a process as JSON."""

    method: str
    """`SimCLR`, `MoCo` (v2) or `BYOL`."""
    backbone: dict[str, Any]
    """Arguments of `BackboneConfig`."""
    precision: str
    """As Lightning's Trainer takes it."""
    device: str
    """`cpu` or `cuda`."""
    batch_size: int
    num_images: int
    """Training images; an epoch drops what is left of its last batch."""
    epochs: int
    """Two or more: the first one warms up."""
    path: str | None
    """Folder of CIFAR-10; None for generated images."""
    folder: str = ""
    """Where logs and checkpoints go; set when the run starts."""
    clock: str = ""
    """File that `EpochClock` writes; set when the run starts."""


class Generated(ImageDataModule):
    """Smooth random pictures of 32 px with random labels, for a machine without data."""

    default_image_size = 32

    def __init__(self, num_images: int, **base: Any) -> None:
        """
        Args:
            num_images: training images.
            base: arguments of `ImageDataModule`.
        """
        super().__init__(**base)
        self.num_images = num_images

    def sources(self) -> tuple[Source, Source]:
        """The training and the validation images, the same in every run."""
        return _pictures(self.num_images, seed=0), _pictures(VAL_IMAGES, seed=1)


def _pictures(count: int, seed: int) -> ArraySource:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    return ArraySource(F.interpolate(coarse, 32, mode="bilinear"), labels, list("0123456789"), "generated")


def data_config(run: Run) -> dict[str, Any]:
    """The part `data` of our configuration."""
    if run.path is None:
        path = f"{Generated.__module__}.{Generated.__name__}"
        return {"class_path": path, "init_args": {"num_images": run.num_images, "batch_size": run.batch_size}}
    limits = {"max_train_images": run.num_images, "max_val_images": VAL_IMAGES}
    return {"class_path": "CIFAR10", "init_args": {"path": run.path, "batch_size": run.batch_size, **limits}}


def training_images(run: Run) -> tuple[Tensor, Tensor]:
    """The images that a run with `data_config` trains on: [N, 3, 32, 32] uint8, and their labels [N]."""
    source, _ = (CIFAR10(run.path) if run.path else Generated(run.num_images)).sources()
    rows = subset_rows(len(source), run.num_images)
    return torch.stack([source.image(row) for row in rows.tolist()]), source.labels[torch.from_numpy(rows)]


class EpochClock(Callback):
    """Writes to a file how long an epoch took and how much memory was in use, as JSON.

    The first epoch is left out: it pays for what libraries and loaders set up once. All others are timed as one, from
    end to end, with what lies between them (starting workers, writing checkpoints).
    """

    def __init__(self, path: str) -> None:
        """
        Args:
            path: file to write.
        """
        self.path = path
        self._began = 0.0
        self._workers_mib = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Looks at the loading processes in the middle of an epoch, when all of them are at work."""
        if trainer.current_epoch == 0 and batch_idx == trainer.num_training_batches // 2:
            self._workers_mib = sum(_mib(p.pid, "smaps_rollup", "Private") for p in multiprocessing.active_children())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts after the first epoch, stops and writes after the last."""
        cuda = pl_module.device.type == "cuda"
        first, last = trainer.current_epoch == 0, trainer.current_epoch + 1 == trainer.max_epochs
        if cuda and (first or last):
            torch.cuda.synchronize()
        if first:
            self._began = time.perf_counter()
        elif last:
            seconds = (time.perf_counter() - self._began) / trainer.current_epoch
            facts = {
                "seconds": seconds,
                "host_mib": _mib("self", "status", "VmHWM") + self._workers_mib,
                "device_mib": torch.cuda.max_memory_allocated() / 1024**2 if cuda else None,
            }
            Path(self.path).write_text(json.dumps(facts))


def _mib(process: int | str | None, file: str, name: str) -> float:
    """Sum of the lines of a process's memory accounts that begin with a name; Linux keeps them."""
    lines = re.findall(rf"^{name}\w*:\s+(\d+) kB", Path(f"/proc/{process}/{file}").read_text(), re.MULTILINE)
    assert lines, f"the system does not tell {name}"
    return sum(map(int, lines)) / 1024
