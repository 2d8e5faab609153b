"""Optimiser and schedule of a run, from its batch size and length."""

import math
from typing import Any

from pytorch_lightning import LightningModule

from datamodules.errors import UserError
from methods.optim import OptimConfig


def optimisation(module: LightningModule, optim: OptimConfig, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """What `configure_optimizers` returns: the rate scaled by the global batch, and a schedule that moves every step.

    Args:
        module: attached to its trainer.
        optim: optimiser and schedule.
        groups: see `OptimConfig.build`.

    Raises:
        UserError: the data module does not say its batch size.
    """
    trainer = module.trainer
    batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    if batch_size is None:
        raise UserError(
            "The learning rate is scaled by the batch size: give the data module an attribute `batch_size`."
        )
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()  # a run that counts steps, not epochs, would not know the length of an epoch
    total = trainer.estimated_stepping_batches
    batches, window = trainer.num_training_batches, trainer.accumulate_grad_batches  # batches may be infinite
    optimizer, schedule = optim.build(
        groups,
        global_batch_size=batch_size * trainer.world_size * window,
        total_steps=total,
        steps_per_epoch=math.ceil(batches / window) if math.isfinite(batches) else batches,
        # Lightning refuses fused steps under its own clipping, and leaves gradients in a loss scaler's scale for them.
        fused=not trainer.gradient_clip_val and optim.clip_each is None,
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}
