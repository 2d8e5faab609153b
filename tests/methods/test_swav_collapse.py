"""What keeps SwAV from collapsing is that all prototypes are used alike; the monitor tells when that is taken away."""

import pytest
import torch
from torch import Tensor

import methods.swav
from callbacks import RepresentationMonitor
from methods.swav import SwAV
from tests.methods import test_collapse


def train(monkeypatch: pytest.MonkeyPatch) -> tuple[RepresentationMonitor, dict[str, float]]:
    """A short run on noise."""
    monkeypatch.setattr(test_collapse, "STEPS", 200)
    torch.manual_seed(0)
    sizes = {"hidden_dim": 64, "out_dim": 32, "num_prototypes": 32}
    module = SwAV(backbone=test_collapse.BACKBONE, optim=test_collapse.OPTIM, **sizes)
    return test_collapse.train(module)  # pyright: ignore[reportArgumentType]


def test_swav_stays_alive(monkeypatch):
    monitor, metrics = train(monkeypatch)
    assert monitor.verdict.startswith("alive")
    assert metrics["projection_std"] > 0.6
    assert metrics["prototypes_used"] > 30  # of 32
    assert metrics["prototypes_per_image"] < 8


def each_image_for_itself(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes without the equal partition."""
    return (scores / epsilon).softmax(-1)


def test_swav_without_equal_partition_shrinks_to_a_point(monkeypatch):
    monkeypatch.setattr(methods.swav, "sinkhorn", each_image_for_itself)
    monitor, metrics = train(monkeypatch)
    assert "shrink to a point" in monitor.verdict
    assert metrics["projection_std"] < 0.1
    assert metrics["loss"] < 0.1
    assert metrics["prototypes_used"] < 1.1
    assert metrics["feature_std"] > 0.7  # a BatchNorm hides it from the features
