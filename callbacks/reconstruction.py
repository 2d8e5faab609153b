"""Pictures that a method repairs, at several points of training, and how large the error is."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from callbacks.pictures import to_pixels
from datamodules.views import Views

PICTURES = 8  # images whose reconstructions are shown
SIDE = 112  # pixels, longest side of a shown picture


class Reconstruction(NamedTuple):
    """Images as they are, as a network was given them, and as it completed them.

    Attributes:
        given: [B, C, H, W] normalised, what the network saw; 0 where it saw nothing.
        made: [B, C, H, W] normalised, the completed images.
        error: scalar mean over the B images, in the units of the method's loss.
        caption: what a reader must know of these pictures, in a sentence.
    """

    given: Tensor
    made: Tensor
    error: Tensor
    caption: str


@runtime_checkable
class Reconstructs(Protocol):
    """A method that completes images."""

    def reconstruct(self, views: Views) -> Reconstruction:
        """Completes held-out images, always in the same way: nothing is drawn anew."""
        ...


class ReconstructionMonitor(Callback):
    """Lets a method that has `reconstruct` complete the same validation images at every validation.

    Logs `reconstruction/val_mse`, keeps the pictures of the first few for the report, and gives them to TensorBoard.
    Pictures of the 1st, 2nd, 4th, 8th ... validation and of the newest stay, so that a long run holds few. Does nothing
    for other methods.

    Attributes:
        images: [N, C, h, w] uint8, the pictures as they are; None before the first validation; on rank 0 alone.
        given: [N, C, h, w] uint8, what the network sees of them.
        made: what it made of them, and when: dictionaries of `validation` (from 1), `epoch` (from 0), `error` and
            `pixels` [N, C, h, w] uint8.
        caption: what a reader must know of the pictures.
    """

    def __init__(self, max_images: int = 256) -> None:
        """
        Args:
            max_images: validation images, over all ranks, that enter the error.
        """
        self.max_images = max_images
        self.images: Tensor | None = None
        self.given: Tensor | None = None
        self.made: list[dict[str, Any]] = []
        self.caption = ""
        self._seen = 0  # images of this validation, on this rank
        self._sum = torch.zeros(2)  # of their errors, and their number
        self._pixels: Tensor | None = None  # the newest completed pictures

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins with the first images again."""
        self._seen = 0
        self._sum = torch.zeros(2, device=pl_module.device)
        self._pixels = None

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Completes the first images of this rank, padding left out."""
        missing = self.max_images // trainer.world_size - self._seen
        if missing <= 0 or trainer.sanity_checking or not isinstance(pl_module, Reconstructs):
            return
        views = batch.rows(0, missing)
        known = int((views.index >= 0).sum())  # padding stands at the end
        if not known:
            return
        views = views.rows(0, known)
        result = pl_module.reconstruct(views)
        self._sum = self._sum + torch.stack([result.error * known, torch.full_like(result.error, known)])
        if self._seen == 0 and trainer.is_global_zero:
            data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
            mean, std = getattr(data, "mean", None), getattr(data, "std", None)
            rows = (views.global_views[0], result.given, result.made)
            self.images, self.given, self._pixels = (to_pixels(x[:PICTURES], mean, std, SIDE) for x in rows)
            self.caption = result.caption
        self._seen += known

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the error of all ranks; before checkpoints are written, which take the pictures along."""
        if trainer.sanity_checking or not isinstance(pl_module, Reconstructs):
            return
        total, count = trainer.strategy.reduce(self._sum, reduce_op="sum")  # pyright: ignore[reportGeneralTypeIssues]
        if not count:
            return
        pl_module.log("reconstruction/val_mse", total / count, sync_dist=True)
        if self._pixels is None:
            return
        number = self.made[-1]["validation"] + 1 if self.made else 1
        if self.made and self.made[-1]["validation"].bit_count() > 1:  # no power of two: it was only the newest
            self.made.pop()
        entry = {"validation": number, "epoch": trainer.current_epoch, "error": float(total / count)}
        self.made.append(entry | {"pixels": self._pixels})
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("reconstruction", self._sheet(), trainer.global_step)

    def _sheet(self) -> Tensor:
        """[C, 3 * h, N * w] uint8: the images, below them what is seen of them, below what is newly made of them."""
        rows = (self.images, self.given, self._pixels)
        return torch.cat([torch.cat(row.unbind(), dim=2) for row in rows if row is not None], dim=1)

    def state_dict(self) -> dict[str, Any]:
        """The pictures so far."""
        return {"images": self.images, "given": self.given, "made": self.made, "caption": self.caption}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the original run stood."""
        self.images, self.given, self.made, self.caption = (
            state_dict[name] for name in ("images", "given", "made", "caption")
        )
