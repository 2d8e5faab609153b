"""A small trained network in a file, labelled images of more than five classes, and a Trainer that judges it."""

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor

from datamodules import ImageDataModule
from datamodules.sources import ArraySource, Source
from methods.backbones import build_backbone
from tests.support.methods import CONVNET, IMAGE_SIZE, images

CLASSES = 7
TRAIN, VAL = 61, 23  # neither divides by a batch or a number of ranks


def write_checkpoint(folder: Path) -> str:
    """A file as our methods write it, with weights that nobody trained."""
    torch.manual_seed(0)
    network = build_backbone(CONVNET)
    backbone = {
        "name": "convnet",
        "in_channels": 3,
        "small_images": False,
        "pretrained": False,
        "options": {"width": 4},
    }
    file = {
        "hyper_parameters": {"_class_path": "methods.SimCLR", "backbone": backbone, "batch_norm": "local"},
        "state_dict": {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()},
        "epoch": 3,
        "global_step": 12,
    }
    torch.save(file, folder / "made.ckpt")
    return str(folder / "made.ckpt")


class Patterns(ImageDataModule):
    """Patterns in seven classes of unequal size, a few without a label."""

    def __init__(self, unknown: int = 2, relabelled: bool = False, **base: Any) -> None:
        super().__init__(**({"image_size": IMAGE_SIZE, "eval_batch_size": 8, "num_workers": 0} | base))
        self.unknown, self.relabelled = unknown, relabelled

    def sources(self) -> tuple[Source, Source]:
        train = ArraySource(*_patterns(TRAIN, 1, self.unknown), list("abcdefg"), "patterns")
        pictures, label = _patterns(VAL, 2, self.unknown)
        if self.relabelled:
            label = torch.where(label < 0, label, (label + 1) % CLASSES)
        return train, ArraySource(pictures, label, list("abcdefg"), "patterns")


def _patterns(count: int, seed: int, unknown: int) -> tuple[Tensor, Tensor]:
    """Random patterns [count, 3, 16, 16], a little brighter in one place by class, and their labels."""
    label = torch.arange(count) ** 2 % (CLASSES + 6) % CLASSES
    pictures = images(count, seed) // 2
    for picture, c in zip(pictures, label.tolist(), strict=True):
        picture[:, c * 2 : c * 2 + 4] += 60
    label[-unknown:] = -1
    return pictures, label


def judge(module: LightningModule, data: ImageDataModule, **flags: Any) -> dict[str, float]:
    """Validates; returns what was logged."""
    trainer = Trainer(
        **{"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False} | flags,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return dict(trainer.validate(module, datamodule=data, verbose=False)[0])


def judge_on_rank(rank: int, kind: str, path: str, ranks: int, options: dict[str, Any]) -> dict[str, float]:
    """The same on one of several ranks, in float64 as far as the network goes."""
    import methods

    if ranks > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), TORCHELASTIC_RUN_ID="tests")
    seed_everything(0, verbose=False)
    strategy = "ddp" if ranks > 1 else "auto"
    module = getattr(methods, kind)(path, **options)
    return judge(module, Patterns(), devices=ranks, strategy=strategy, precision="64-true")
