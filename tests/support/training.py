"""Whole training runs of small methods on small images, in a process of their own, on one rank or several."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from callbacks import KNNMonitor, OnlineLinearProbe, RepresentationMonitor, RunReport
from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.owed import OwedValidation
from callbacks.plan import RunPlan
from datamodules import ImageDataModule
from datamodules.sources import ArraySource, Source
from tests.support.killing import Kill, KillInTraining, KillInWriting
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
    """The loss of every batch of this rank, what the random generator would give after it, and the step it began at."""

    def __init__(self) -> None:
        self.step = 0
        self.values: list[float] = []
        self.draws: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.values.append(float(outputs["loss"]))
        self.draws.append(float(torch.rand(())))


class Remembers(RunReport):
    """The report's memory of all that was logged, without the page."""

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Writes nothing."""

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Writes nothing."""


def watchers() -> list[Callback]:
    """All that watch, with memories of their own."""
    return [
        OnlineLinearProbe(),
        KNNMonitor(k=[3], bank="train"),
        KNNMonitor(k=[3], bank="recent", bank_size=16, name="knn_recent"),
        RepresentationMonitor(),
        Remembers(),
    ]


def checkpoints(folder: Path, every: int | None) -> list[Callback]:
    """The newest state, every so many steps or at each epoch's end; and the best epoch's, by what was validated."""
    common: dict[str, Any] = {"save_top_k": 1, "enable_version_counter": False}
    return [
        ModelCheckpoint(folder, "best-{epoch}", monitor="representation/effective_rank", mode="max", **common),
        ModelCheckpoint(folder, "{epoch}-{step}", every_n_train_steps=every, save_last=True, **common),
    ]


def fit(
    rank: int,
    method_name: str,
    folder: str,
    ranks: int = 1,
    kill: Kill | None = None,
    resume: bool = False,
    double: bool = False,
    every: int | None = 3,
    **arguments: Any,
) -> dict[str, Any]:
    """Trains for two epochs, with a checkpoint every third step, and returns what the run came to.

    Args:
        rank: this process.
        method_name: name of one of `all_methods`.
        folder: of this run; holds checkpoints/ and its logs.
        ranks: number of processes; they share the global batch.
        kill: when the run dies, if it does.
        resume: go on from the folder's newest checkpoint.
        double: float64, and BatchNorm over all ranks, for comparisons between different numbers of ranks.
        every: steps between two checkpoints; None for one at the end of each epoch.
        arguments: further ones of the Trainer.

    Returns:
        `losses` and `draws` of this rank's batches, the `step` it began at, `metrics` of the last validation, and
        everything stateful as numpy arrays.
    """
    if ranks > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), TORCHELASTIC_RUN_ID="tests")
    torch.use_deterministic_algorithms(True)
    seed_everything(7, verbose=False)
    method = next(m for m in all_methods() if m.__name__ == method_name)
    module = small(method, batch_norm="sync" if double else "local")
    losses = Losses()
    callbacks = [RunPlan(), OwedValidation(), *watchers(), losses, *checkpoints(Path(folder) / "checkpoints", every)]
    writing = AtomicCheckpointIO()
    if kill is not None and rank in kill.ranks:
        callbacks.insert(4, KillInTraining(kill))  # some watchers have seen the batch, others not
        writing = KillInWriting(kill)
    settings: dict[str, Any] = {"max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 0}
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        precision="64-true" if double else "32-true",
        callbacks=callbacks,
        plugins=[writing],
        logger=CSVLogger(folder, name="", version="resumed" if resume else "logs", flush_logs_every_n_steps=1),
        enable_progress_bar=False,
        enable_model_summary=False,
        **(settings | arguments),
    )
    data = TinyImages(specs_without_masks(method), IMAGE_SIZE, batch_size=BATCH // ranks, eval_batch_size=7)
    last = Path(folder) / "checkpoints" / "last.ckpt"
    trainer.fit(module, datamodule=data, ckpt_path=str(last) if resume else None)
    state = arrays(trainer._checkpoint_connector.dump_checkpoint(), folder)
    if rank:  # the report is of rank 0, and so is its memory in a checkpoint
        state = {path: value for path, value in state.items() if not path.startswith(MEMORY)}
    return {
        "step": losses.step,
        "losses": losses.values,
        "draws": losses.draws,
        "metrics": {name: float(v) for name, v in trainer.callback_metrics.items() if name != "train/loss"},
        "state": state,
    }


MEMORY = "/callbacks/Remembers"
MEASURED = ("/images", "/train_seconds", "/wall_seconds")  # the report's clocks
FLEETING = "train/negatives_filled"  # AdCo stops logging it amid an epoch; Lightning then repeats it to the epoch's end
UNREAD = "/current_score"  # of ModelCheckpoint: Lightning neither restores nor reads it


def arrays(state: Any, folder: str, path: str = "") -> dict[str, Any]:
    """Flattens a checkpoint to one level: path -> array, or -> plain value. Leaves the run's folder and clocks out."""
    if isinstance(state, dict):
        places = {str(key).replace(folder, ""): value for key, value in state.items()}
        return {k: v for key, value in places.items() for k, v in arrays(value, folder, f"{path}/{key}").items()}
    if isinstance(state, list | tuple):
        return {k: v for place, value in enumerate(state) for k, v in arrays(value, folder, f"{path}/{place}").items()}
    if path.endswith(UNREAD) or f"/{FLEETING}/" in path or (path.startswith(MEMORY) and path.endswith(MEASURED)):
        return {}
    if isinstance(state, Tensor):
        return {path: state.detach().cpu().numpy()}
    if isinstance(state, str | Path):
        state = str(state).replace(folder, "")
    return {path: state}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every array bit for bit, every other value equal, and nothing more or less."""
    different = [path for path in actual.keys() & expected.keys() if not equal(actual[path], expected[path])]
    assert not sorted(different), {path: (actual[path], expected[path]) for path in different}
    assert actual.keys() == expected.keys()


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, NaN being itself."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return a == b or (a != a and b != b)


def logged(folder: Path, since: int, step: int = 0) -> list[tuple[int, str, str]]:
    """All that was logged, as (step, name, value); what was logged twice is there twice.

    Args:
        folder: of metrics.csv.
        since: first step of validations and ends of epochs.
        step: first step of training.
    """
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return sorted(
        (int(row["step"]), name, value)
        for row in rows
        for name, value in row.items()
        if value and name not in ("step", FLEETING) and int(row["step"]) >= (step if row["train/loss"] else since)
    )


def same_end(broken: Path, actual: list[dict[str, Any]], whole: Path, expected: list[dict[str, Any]]) -> None:
    """A resumed run came to what the uninterrupted one came to, in memory and on the disk.

    Args:
        broken: folder of the resumed run.
        actual: what each of its ranks returned.
        whole: folder of the uninterrupted run.
        expected: what each of its ranks returned.
    """
    for mine, reference in zip(actual, expected, strict=True):
        left = len(mine["losses"])
        assert 0 < left < len(reference["losses"])
        assert mine["losses"] == reference["losses"][-left:]
        assert mine["draws"] == reference["draws"][-left:]  # masks and dropout would be the same
        assert_same(mine["state"], reference["state"])
    lines = logged(broken / "resumed", since=0)
    reference = logged(whole / "logs", since=lines[0][0], step=actual[0]["step"])
    assert lines == reference, sorted(set(lines) ^ set(reference)) or "something was logged twice"
    assert files(broken) == files(whole), (files(broken), files(whole))


def files(folder: Path) -> list[str]:
    """Names of the checkpoints, also of what would be left of them."""
    return sorted(path.name for path in (folder / "checkpoints").iterdir())
