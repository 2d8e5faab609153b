"""Fills the queues."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn


class QueueUpdate(Callback):
    """Pushes the keys that a step returned in `enqueue` into the method's queues, gathered from all ranks.

    Runs once per batch, after backward: the loss has read the queue as it was, and nothing in its graph is overwritten.
    All ranks push the same keys in the same order, so their queues stay equal. The base attaches it to methods with a
    module that has a `push`: a queue, or negatives that are filled like one.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warns where a queue outlives an epoch, or negatives are never filled within the run."""
        data = getattr(trainer, "datamodule", None)
        images = getattr(data, "num_train_images", None)
        queues = {name: getattr(module, "keys", None) for name, module in pl_module.named_modules()}
        sizes = {name: len(keys) for name, keys in queues.items() if isinstance(keys, torch.Tensor)}
        if images is not None and sizes and max(sizes.values()) >= images:
            rank_zero_warn(
                f"{max(sizes, key=sizes.__getitem__)} holds {max(sizes.values())} keys, the training set only {images} "
                "images: images will meet their own older views in it. Make the queue shorter than the data set."
            )

        batch = getattr(data, "batch_size", 0) * trainer.world_size * trainer.accumulate_grad_batches
        for name, module in pl_module.named_modules():
            size = len(module.get_parameter("weight")) if hasattr(module, "filled") else 0
            if trainer.estimated_stepping_batches * batch < size:
                rank_zero_warn(
                    f"{name} holds {size} vectors and is first filled with keys, but the run has only "
                    f"{trainer.estimated_stepping_batches * batch} images: it ends before they are trained. Take "
                    "fewer (AdCo: a lower --model.num_negatives), or train for longer."
                )

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *_) -> None:
        """Gathers [B, ...] keys to [W * B, ...] in rank order and pushes them."""
        for name, keys in outputs["enqueue"].items():
            if not len(keys):
                continue  # on no rank
            queue: Any = pl_module.get_submodule(name)
            gathered: Any = pl_module.all_gather(keys)  # [W, B, ...], or [B, ...] on one process
            queue.push(gathered.reshape(-1, *keys.shape[1:]))
