"""Ends a training run without a word, as a power cut would, at a moment that the run's name decides."""

import io
import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from pytorch_lightning import Callback, Trainer

from callbacks.checkpoint_io import AtomicCheckpointIO

MOMENTS = ("step", "validation", "writing")


@dataclass(frozen=True)
class Kill:
    """When a run dies, and who of it.

    Attributes:
        moment: before an optimiser step, amid a validation batch, or with half a checkpoint on the disk.
        count: steps done by then; validation batches begun, over all epochs; checkpoints begun.
        ranks: those that die; the others find themselves alone.
    """

    moment: str
    count: int
    ranks: tuple[int, ...] = (0,)


def some_kill(name: str, moment: str, ranks: int = 1) -> Kill:
    """A kill between the first checkpoint and the end, in `tests.support.training.fit`; the same for the same name.

    Only rank 0 writes, so only it can die of that.
    """
    draw = random.Random(f"{name}, {moment}, {ranks}")
    counts = {
        "step": [3, 4, 6, 7, 8, 9],
        "validation": [1, 2, 3, 4, 5, 6][: 6 if ranks == 1 else 4],
        "writing": [4, 5, 7],  # of the 8: one beside last.ckpt, and twice last.ckpt itself
    }
    count = draw.choice(counts[moment])
    victims = [(0,)] if ranks == 1 or moment == "writing" else [(0,), (1,), (0, 1)]
    return Kill(moment, count, draw.choice(victims))


def die() -> None:
    """Leaves no time for anything."""
    os.kill(os.getpid(), signal.SIGKILL)


class KillInTraining(Callback):
    """Dies before a step, or in a validation batch after some of the watchers have seen it."""

    def __init__(self, kill: Kill) -> None:
        self.kill = kill
        self.batches = 0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.kill.moment == "step" and trainer.global_step == self.kill.count:
            die()

    def on_validation_batch_end(self, *_: Any) -> None:
        self.batches += 1
        if self.kill.moment == "validation" and self.batches == self.kill.count:
            die()


class KillInWriting(AtomicCheckpointIO):
    """Dies when half of a checkpoint is on the disk."""

    def __init__(self, kill: Kill) -> None:
        self.kill = kill
        self.files = 0

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        self.files += 1
        dies = self.kill.moment == "writing" and self.files == self.kill.count
        with mock.patch.object(torch, "save", save_half if dies else torch.save):
            super().save_checkpoint(checkpoint, path, storage_options)


def save_half(checkpoint: Any, file: Any, *, save: Any = torch.save) -> None:
    """torch.save up to the middle of the file."""
    whole = io.BytesIO()
    save(checkpoint, whole)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()
    die()
