"""Fills the queues."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn


class QueueUpdate(Callback):
    """Pushes the keys that a step returned in `enqueue` into the method's queues, gathered from all ranks.

    Runs once per batch, after backward: the loss has read the queue as it was, and nothing in its graph is overwritten.
    All ranks push the same keys in the same order, so their queues stay equal. The base attaches it to methods with a
    `FeatureQueue`.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warns where a queue outlives an epoch: an image would then meet its own older views among the negatives."""
        images = getattr(getattr(trainer, "datamodule", None), "num_train_images", None)
        for name, queue in pl_module.named_modules():
            keys = getattr(queue, "keys", None)
            if images is not None and isinstance(keys, torch.Tensor) and len(keys) >= images:
                rank_zero_warn(
                    f"{name} holds {len(keys)} keys, the training set only {images} images: images will meet their own "
                    "older views as negatives. Make the queue shorter than the data set."
                )

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *_) -> None:
        """Gathers [B, d] keys to [W * B, d] in rank order and pushes them."""
        for name, keys in outputs["enqueue"].items():
            queue: Any = pl_module.get_submodule(name)
            gathered: Any = pl_module.all_gather(keys)  # [W, B, d], or [B, d] on one process
            queue.push(gathered.reshape(-1, keys.shape[-1]))
