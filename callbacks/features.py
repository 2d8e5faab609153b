"""What `cli.py predict` leaves behind: the features of all images in one file."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.disk import whole
from datamodules.views import Views


class FeatureWriter(Callback):
    """Writes the features that a prediction computes, in the order of the data set, from all ranks.

    The file is read by `torch.load(path)`, a dictionary of `features` [N, D] float32, `label` [N] int64, -1 where
    unknown, `index` [N] int64, the place of each image in its split, and `class_names`, empty where there are none.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: file to write.
        """
        self.path = path
        self._batches: list[tuple[Tensor, ...]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor,
        batch: Views,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps a batch, off the device."""
        self._batches.append(tuple(column.cpu() for column in (outputs.float(), batch.label, batch.index)))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file."""
        features, label, index = (self._all(torch.cat(column), trainer) for column in zip(*self._batches, strict=True))
        self._batches.clear()
        if not trainer.is_global_zero:
            return
        rows = index.argsort()[int((index < 0).sum()) :]  # without those that only fill up a batch
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        found = {"features": features[rows], "label": label[rows], "index": index[rows]}
        with whole(self.path) as part:
            torch.save({**found, "class_names": list(getattr(data, "class_names", None) or [])}, part)
        print(f"{len(rows):,} images, features of size {features.shape[1]:,}: {self.path}")

    @staticmethod
    def _all(column: Tensor, trainer: Trainer) -> Tensor:
        """A column of all ranks, which have equally many rows."""
        if trainer.world_size == 1:
            return column
        gathered: Any = trainer.strategy.all_gather(column.to(trainer.strategy.root_device))
        return gathered.flatten(0, 1).cpu()
