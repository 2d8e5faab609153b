"""What keeps a method without negatives from collapsing, and that the monitor tells when it is taken away.

Views are 32-dimensional Gaussians with noise. With the affine-free BatchNorm behind SimSiam's projector the spread
cannot vanish, so there it is the number of directions that falls; without that BatchNorm it is the spread.
"""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import RepresentationMonitor
from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.base import StepOutput
from methods.byol import BYOL
from methods.optim import OptimConfig
from methods.simsiam import SimSiam

BATCH, STEPS = 128, 500
BACKBONE = BackboneConfig("tests.support.trajectory.LinBNReLU", options={"inputs": 32, "width": 64})
OPTIM = OptimConfig(
    "sgd",
    lr=0.2,
    weight_decay=0.0,
    options={"momentum": 0.9},
    lr_scaling="none",
    warmup_epochs=0,
    final_lr_ratio=1.0,
)


class Noise(LightningDataModule):
    """Two noisy copies of random points."""

    batch_size = BATCH

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(STEPS, 1, BATCH, 32, generator=generator)
        x = x + 0.5 * torch.randn(STEPS, 2, BATCH, 32, generator=generator)
        label, index = torch.zeros(BATCH, dtype=torch.int64), torch.arange(BATCH)
        return DataLoader([Views(list(pair), label, index) for pair in x], batch_size=None)  # pyright: ignore

    def val_dataloader(self) -> DataLoader:
        x = torch.randn(256, 32, generator=torch.Generator().manual_seed(1))
        return DataLoader([Views([x], torch.zeros(256), torch.arange(256))], batch_size=None)  # pyright: ignore


def train(module: SimSiam | BYOL) -> tuple[RepresentationMonitor, dict[str, float]]:
    monitor = RepresentationMonitor()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, datamodule=Noise())
    told = any("The representation is coll" in str(w.message) for w in caught)
    assert told == monitor.verdict.startswith("coll")
    return monitor, {name.rpartition("/")[2]: float(value) for name, value in trainer.callback_metrics.items()}


class Undetachable:
    """Stands in for a projection that the method forgets to detach."""

    def __init__(self, z: Tensor) -> None:
        self.z = z

    def detach(self) -> Tensor:
        return self.z


class WithoutStopGradient(SimSiam):
    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        e: dict[str, Any] = {n: Undetachable(v) if n in ("z1", "z2") else v for n, v in embeddings.items()}
        output = super().contrast(e)
        output.projections = embeddings["z1"]
        return output


def simsiam(method: type[SimSiam], output_norm: bool) -> SimSiam:
    torch.manual_seed(0)
    module = method(backbone=BACKBONE, optim=OPTIM, hidden_dim=64, out_dim=64, predictor_hidden_dim=16)
    if not output_norm:
        module.projector[-1] = nn.Identity()
    return module


def byol(change: Callable[[BYOL], None] | None = None) -> BYOL:
    torch.manual_seed(0)
    module = BYOL(backbone=BACKBONE, optim=OPTIM, hidden_dim=64, out_dim=32, teacher_momentum=0.9)
    if change:
        change(module)
    return module


@pytest.mark.parametrize("output_norm", [True, False])
def test_simsiam_stays_alive(output_norm):
    monitor, metrics = train(simsiam(SimSiam, output_norm))
    assert monitor.verdict.startswith("alive")
    assert metrics["projection_std"] > 0.8
    assert metrics["projection_directions"] > 8


def test_simsiam_without_stop_gradient_loses_directions():
    monitor, metrics = train(simsiam(WithoutStopGradient, True))
    assert metrics["projection_directions"] < 2  # of 64
    assert metrics["projection_std"] > 0.3  # the BatchNorm holds the spread up
    assert metrics["loss"] < -0.8
    assert metrics["feature_std"] > 0.7  # and another one hides it all from the features
    assert monitor.verdict.startswith("collapsing: its projections shrink to")


def test_simsiam_without_stop_gradient_and_output_norm_shrinks_to_a_point():
    monitor, metrics = train(simsiam(WithoutStopGradient, False))
    assert metrics["projection_std"] < 0.12
    assert metrics["loss"] < -0.99
    assert "shrink to a point" in monitor.verdict


def test_byol_stays_alive():
    monitor, metrics = train(byol())
    assert monitor.verdict.startswith("alive")
    assert metrics["projection_std"] > 0.8


def test_byol_without_predictor_shrinks_to_a_point():
    def without_predictor(module: BYOL) -> None:
        module.predictor = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]

    monitor, metrics = train(byol(without_predictor))
    assert metrics["projection_std"] < 0.35
    assert "shrink to a point" in monitor.verdict
