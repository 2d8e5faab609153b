"""Whole training runs of small methods on small images, in a process of their own, on one rank or several."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from callbacks import KNNMonitor, OnlineLinearProbe, RepresentationMonitor
from datamodules import ImageDataModule
from datamodules.sources import ArraySource, Source
from tests.support.methods import IMAGE_SIZE, all_methods, images, small, specs_without_masks

BATCH = 8  # images per step, over all ranks
STEPS = 5  # per epoch


class TinyImages(ImageDataModule):
    """41 training and 19 validation images of 16 px in three classes; neither number divides by a batch."""

    num_channels = 3

    def sources(self) -> tuple[Source, Source]:
        made = [
            ArraySource(images(n, seed), torch.arange(n) % 3, list("abc"), "tiny") for n, seed in ((41, 1), (19, 2))
        ]
        return made[0], made[1]


class Losses(Callback):
    """The loss of every step of this rank, and what the random generator would give after it."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.draws: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.values.append(float(outputs["loss"]))
        self.draws.append(float(torch.rand(())))


class Kill(Callback):
    """Ends the process without a word, as a power cut would, before the step with this number."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def watchers() -> list[Callback]:
    """All that watch, with memories of their own."""
    return [
        OnlineLinearProbe(),
        KNNMonitor(k=[3], bank="train"),
        KNNMonitor(k=[3], bank="recent", bank_size=16, name="knn_recent"),
        RepresentationMonitor(),
    ]


def fit(
    rank: int,
    method_name: str,
    folder: str,
    ranks: int = 1,
    kill_at: int | None = None,
    resume: bool = False,
    double: bool = False,
) -> dict[str, Any]:
    """Trains for two epochs, with a checkpoint every third step, and returns what the run came to.

    Args:
        rank: this process.
        method_name: name of one of `all_methods`.
        folder: of this run; holds checkpoints/ and its logs.
        ranks: number of processes; they share the global batch.
        kill_at: step before which the process dies.
        resume: go on from the folder's newest checkpoint.
        double: float64, and BatchNorm over all ranks, for comparisons between different numbers of ranks.

    Returns:
        `losses` and `draws` of this rank's steps, `metrics` of the last validation, and everything stateful as numpy
        arrays.
    """
    if ranks > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), TORCHELASTIC_RUN_ID="tests")
    torch.use_deterministic_algorithms(True)
    seed_everything(7, verbose=False)
    method = next(m for m in all_methods() if m.__name__ == method_name)
    module = small(method, batch_norm="sync" if double else "local")
    losses = Losses()
    checkpoint = ModelCheckpoint(
        Path(folder) / "checkpoints", every_n_train_steps=3, save_last=True, save_top_k=1, enable_version_counter=False
    )
    callbacks = [*watchers(), losses, checkpoint, *([Kill(kill_at)] if kill_at is not None else [])]
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        precision="64-true" if double else "32-true",
        max_epochs=2,
        callbacks=callbacks,
        logger=CSVLogger(folder, name="", version="resumed" if resume else "logs", flush_logs_every_n_steps=1),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    data = TinyImages(specs_without_masks(method), IMAGE_SIZE, batch_size=BATCH // ranks, eval_batch_size=7)
    last = Path(folder) / "checkpoints" / "last.ckpt"
    trainer.fit(module, datamodule=data, ckpt_path=str(last) if resume else None)
    return {
        "losses": losses.values,
        "draws": losses.draws,
        "metrics": {name: float(v) for name, v in trainer.callback_metrics.items() if name != "train/loss"},
        "state": arrays(trainer._checkpoint_connector.dump_checkpoint(), folder),
    }


def arrays(state: Any, folder: str, path: str = "") -> dict[str, Any]:
    """Flattens a checkpoint to one level: path -> array, or -> plain value. Paths of the run's folder are left out."""
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in arrays(value, folder, f"{path}/{key}").items()}
    if isinstance(state, list | tuple):
        return {k: v for place, value in enumerate(state) for k, v in arrays(value, folder, f"{path}/{place}").items()}
    if isinstance(state, Tensor):
        return {path: state.detach().cpu().numpy()}
    return {} if isinstance(state, str | Path) and folder in str(state) else {path: state}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every array bit for bit, every other value equal."""
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(actual[path], value, err_msg=path)
        else:
            assert actual[path] == value, f"{path}: {actual[path]} is not {value}"
