"""A batch whose step came out as no number: what was wrong first, and a file to take the step again from."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils._pytree import tree_map_only

from datamodules.views import Views

LISTED = 5  # images in a sentence


@dataclass
class Offender:
    """The step of one batch.

    Attributes:
        batch: its views.
        outputs: what `training_step` returned.
        place: `epoch`, `batch` and `step`, the optimiser steps before it; `rank` and `world_size`; the run's `seed` and
            that of this step's draws, `step_seed`; `precision`.
    """

    batch: Views
    outputs: dict[str, Any]
    place: dict[str, Any]

    def tensors(self) -> dict[str, Tensor | None]:
        """Name -> tensor in the order of computation, the same names on all ranks."""
        views = {f"view {i + 1}": view for i, view in enumerate(self.batch.global_views)}
        views |= {f"local view {i + 1}": view for i, view in enumerate(self.batch.local_views)}
        made = {name: self.outputs.get(name) for name in ("features", "positives", "projections")}
        keys = {f"keys for {name}": keys for name, keys in self.outputs.get("enqueue", {}).items()}
        return views | self.batch.extras | made | keys

    def first(self, beyond: list[str]) -> tuple[int, str]:
        """Where this rank's numbers stop being finite.

        Args:
            beyond: what of the loss and the parameters' gradients is not finite, the loss first.

        Returns:
            The place in the order of computation, the larger the later; and the name with the images.
        """
        index, tensors = self.batch.index, self.tensors()
        for order, (name, tensor) in enumerate(tensors.items()):
            if tensor is not None and not (fine := tensor.isfinite()).all():
                one_row_each = len(tensor) == len(index)
                images = index[~fine.reshape(len(fine), -1).all(1).to(index.device)] if one_row_each else index
                return order, f"{name}, of {_listed(images)}"
        if beyond[:1] == ["loss"]:
            return len(tensors), f"the loss, of {_listed(index)}"
        if beyond:  # backward begins at the last parameter
            more = f" and of {len(beyond) - 1} before it" if len(beyond) > 1 else ""
            return len(tensors) + 1, f"the gradient of {beyond[-1]}{more} under a finite loss, of {_listed(index)}"
        return len(tensors) + 2, "nothing of this rank"

    def account(self, beyond: list[str], trainer: Trainer, logged: bool) -> str:
        """One sentence, by the rank on which it came first; the others refer to it.

        Args:
            beyond: see `first`.
            trainer: of the run; all ranks have to call.
            logged: the values that were logged last are those of this step.
        """
        order, what = self.first(beyond)
        mine = torch.tensor(order, device=trainer.strategy.root_device)
        orders = trainer.strategy.all_gather(mine).flatten().tolist()  # pyright: ignore[reportAttributeAccessIssue]
        first = orders.index(min(orders))
        if first != trainer.global_rank:
            what = f"what rank {first} tells of"
        elif logged and what.startswith("the loss"):
            values = ((name.removeprefix("train/"), value) for name, value in trainer.callback_metrics.items())
            terms = [name for name, value in values if name != "loss" and not value.isfinite()]
            what += f" (and {', '.join(terms)} of what is logged)" if terms else ""
        place = self.place
        return f"Not finite after {place['step']} steps (epoch {place['epoch']}, batch {place['batch']}): first {what}."

    def saved(self, trainer: Trainer) -> str:
        """Saves the batch beside the checkpoints; a sentence says where, or why not."""
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return ""
        checkpoints = getattr(trainer.checkpoint_callback, "dirpath", None)
        folder = Path(checkpoints or trainer.log_dir or trainer.default_root_dir)
        try:
            told = f" The batch is in {self.save(folder)}; docs/numerics.md says how to take its step again."
        except (OSError, RuntimeError) as error:  # torch's own writer says RuntimeError where a disk is full
            told = f" The batch could not be saved ({error})."
        trainer.strategy.barrier()  # a rank that ends while others still write would be taken for a dead one
        return told

    def save(self, folder: Path) -> Path:
        """Writes plain tensors and numbers, which `torch.load` takes with `weights_only=True`."""
        epoch, batch, rank = (self.place[name] for name in ("epoch", "batch", "rank"))
        path = folder / f"not_finite-epoch={epoch}-batch={batch}-rank={rank}.pt"
        folder.mkdir(parents=True, exist_ok=True)
        views = tree_map_only(Tensor, lambda x: x.detach().cpu().clone(), self.batch._asdict())
        torch.save(self.place | {"views": dict(views)}, path)
        return path


def newest_checkpoint(trainer: Trainer) -> str:
    """A sentence on where to go on from, with a space behind it."""
    writer = trainer.checkpoint_callback
    found = getattr(writer, "last_model_path", "") or getattr(writer, "best_model_path", "")
    return f"The newest checkpoint is {found}. " if found else "There is no checkpoint yet. "


def replay(module: LightningModule, path: str | Path) -> Any:
    """Takes the step of a saved batch again, with its draws, in its precision, at its place in the run.

    On one process: of a batch that several ranks shared, with this rank's images alone.

    Args:
        module: the method, with weights of your choice, on the CPU.
        path: a file of `NonFiniteGuard`.

    Returns:
        What `module.step` returns, with its graph.
    """
    found = torch.load(path, weights_only=True)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, precision=found["precision"])
    trainer.fit_loop.epoch_progress.current.completed = found["epoch"]
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = found["step"]
    module.trainer = trainer
    os.environ["PL_GLOBAL_SEED"] = str(found["seed"])
    torch.manual_seed(found["step_seed"])
    with trainer.precision_plugin.train_step_context():
        return module.train().step(Views(**found["views"]))  # pyright: ignore[reportCallIssue]


def _listed(images: Tensor) -> str:
    shown = ", ".join(map(str, images[:LISTED].tolist()))
    more = f" and {len(images) - LISTED} more" if len(images) > LISTED else ""
    return f"image{'s' if len(images) > 1 else ''} {shown}{more}"
