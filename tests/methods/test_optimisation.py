"""Which optimiser a run gets from its Trainer."""

import pytest
import torch
from pytorch_lightning import Trainer

from methods import SimCLR
from methods.optim import OptimConfig
from scripts.benchmark.bare import NoiseImages
from tests.support.methods import small


def trained(precision="32-true", clip=None, **optim):
    module = small(SimCLR, optim=OptimConfig(lr=1e-2, warmup_epochs=0, **optim))
    quiet = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    trainer = Trainer(
        max_steps=3, accelerator="cpu", precision=precision, gradient_clip_val=clip, limit_val_batches=0,
        **dict.fromkeys(quiet, False),
    )  # fmt: skip
    trainer.fit(module, datamodule=NoiseImages(num_images=24, side=16, image_size=16, batch_size=8))
    return module


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_step_is_one_kernel_and_the_same_step(name):
    fused = trained(optimizer=name)
    loop = trained(optimizer=name, options={"foreach": False})
    assert fused.trainer.optimizers[0].param_groups[0]["fused"]
    assert not loop.trainer.optimizers[0].param_groups[0]["fused"]
    for ours, plain in zip(fused.parameters(), loop.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_clipping_in_mixed_precision_goes_without():
    module = trained(optimizer="adamw", precision="bf16-mixed", clip=1.0)
    assert not module.trainer.optimizers[0].param_groups[0]["fused"]
    assert module.trainer.global_step == 3


def test_gradients_that_are_clipped_each_are_out_of_the_scaler_by_then():
    """Lightning leaves them in a loss scaler's scale for an optimiser with fused steps."""
    module = trained(optimizer="adamw", clip_each=3.0)
    assert not module.trainer.optimizers[0].param_groups[0]["fused"]
