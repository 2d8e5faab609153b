"""Small runs in which a number stops being finite at a known place."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from callbacks import NonFiniteGuard, OnlineLinearProbe
from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import SSLModule
from tests.support.methods import IMAGE_SIZE, specs_without_masks
from tests.support.training import BATCH, TinyImages


class Poison(Callback):
    """Spoils something of the training batches with these numbers, counted over the run.

    Args:
        batches: which.
        what: `view`, the second view of the batch's fourth image; `loss`, by adding an infinity; `projector`, the
            output of a module of that name for the fourth image; `gradient` of the projector's first weight; `weight`,
            itself, after the step.
    """

    def __init__(self, what: str, *batches: int, rank: int | None = None) -> None:
        self.what, self.batches, self.rank = what, batches, rank
        self.seen = -1
        self.image = -1

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        first = pl_module.projector[0]
        first.weight.register_hook(lambda g: g * (torch.nan if self.now("gradient", trainer) else 1.0))
        pl_module.projector.register_forward_hook(lambda m, x, y: self.row(y) if self.now("projector", trainer) else y)
        contrast = pl_module.contrast

        def spoilt(embeddings: dict[str, Tensor]) -> Any:
            output = contrast(embeddings)
            if self.now("loss", trainer):
                output.loss = output.loss + torch.inf
            return output

        pl_module.contrast = spoilt

    def now(self, what: str, trainer: Trainer) -> bool:
        here = self.rank is None or self.rank == trainer.global_rank
        return trainer.training and self.what == what and self.seen in self.batches and here

    def row(self, y: Tensor) -> Tensor:
        y = y.clone()
        y[3] = torch.nan
        return y

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Views, batch_idx: int) -> None:
        self.seen += 1
        if self.seen in self.batches:
            self.image = int(batch.index[3])
        if self.now("view", trainer):
            batch.global_views[1][3] = torch.nan

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if self.now("weight", trainer):
            with torch.no_grad():
                pl_module.projector[0].weight[0, 0] = torch.inf


def run(module: SSLModule, folder: Path, *callbacks: Callback, ranks: int = 1, **arguments: Any) -> Trainer:
    """Trains on the tiny images for two epochs of five steps, a checkpoint every second step; fits at once.

    Returns:
        The trainer, also in the attribute `trainer` of the module where the fit raises.
    """
    seed_everything(7, verbose=False)
    writer = ModelCheckpoint(folder / "checkpoints", every_n_train_steps=2, save_last=True, save_top_k=-1)
    guards = [] if any(isinstance(c, NonFiniteGuard) for c in callbacks) else [NonFiniteGuard()]
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": ranks,
        "strategy": "ddp" if ranks > 1 else "auto",
        "max_epochs": 2,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    trainer = Trainer(callbacks=[OnlineLinearProbe(), *callbacks, *guards, writer], **defaults | arguments)
    data = TinyImages(specs_without_masks(type(module)), IMAGE_SIZE, batch_size=BATCH // ranks, eval_batch_size=7)
    trainer.fit(module, datamodule=data)
    return trainer


def stopped(module: SSLModule, folder: Path, *callbacks: Callback, **arguments: Any) -> str:
    """The sentence with which such a run ends."""
    with pytest.raises(UserError) as error:
        run(module, folder, *callbacks, **arguments)
    return str(error.value)


def finite(state: dict[str, Any]) -> bool:
    """Whether every number of every tensor is."""
    return all(bool(value.isfinite().all()) for value in state.values() if torch.is_tensor(value))
