"""Centring and sharpening keep DINO alive; without either it collapses, and the monitor tells.

Views are 32-dimensional Gaussians with noise, as in the tests of the other methods without negatives.
"""

import math
import warnings
from typing import Any

import pytest
import torch

from callbacks import RepresentationMonitor
from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.dino import DINO
from methods.optim import OptimConfig
from tests.support.replay import Prepared, quiet_trainer

BATCH, STEPS, K = 64, 150, 64
BACKBONE = BackboneConfig("tests.support.trajectory.LinBNReLU", options={"inputs": 32, "width": 64})


def noise() -> Prepared:
    """Two noisy copies of random points, and clean points to validate on."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(STEPS, 1, BATCH, 32, generator=generator)
    x = x + 0.5 * torch.randn(STEPS, 2, BATCH, 32, generator=generator)
    nothing, index = torch.full((BATCH,), -1), torch.arange(BATCH)
    clean = torch.randn(BATCH, 32, generator=generator)
    return Prepared([Views(list(pair), nothing, index) for pair in x], [Views([clean], nothing, index)], None)


def train(**arguments: Any) -> tuple[str, dict[str, float]]:
    """The monitor's verdict after a short run, and what was logged last."""
    optim = OptimConfig("adamw", 2e-3, 0.0, clip_each=3.0, lr_scaling="none", warmup_epochs=0.2, final_lr_ratio=1.0)
    sizes = {"hidden_dim": 64, "bottleneck_dim": 32, "num_prototypes": K, "head_batch_norm": True}
    rules = {"teacher_momentum": 0.9, "freeze_last_layer_epochs": 0}
    module = DINO(backbone=BACKBONE, optim=optim, **(sizes | rules | arguments))
    monitor = RepresentationMonitor()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The representation is coll")
        trainer = quiet_trainer([monitor])
        trainer.fit(module, datamodule=noise())
    return monitor.verdict, {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_stays_alive():
    verdict, metrics = train()
    assert verdict.startswith("alive"), verdict
    assert 0.1 * math.log(K) < metrics["train/teacher_entropy"] < 0.9 * math.log(K)
    assert metrics["train/divergence"] > 0.3
    assert metrics["representation/projection_std"] > 0.3


def test_without_centring_one_prototype_wins():
    verdict, metrics = train(center_momentum=1.0)  # the center stays at zero
    assert "shrink to a point" in verdict
    assert metrics["train/teacher_entropy"] < 0.1
    assert metrics["train/divergence"] < 0.1


def test_without_sharpening_all_prototypes_are_alike():
    verdict, metrics = train(teacher_temperature=0.2)  # softer than the student's
    assert "shrink to a point" in verdict
    assert metrics["train/teacher_entropy"] == pytest.approx(math.log(K), rel=0.01)
    assert metrics["train/divergence"] < 0.02
