"""The teacher's copy and the schedule of its momentum."""

import math

import pytest
import torch
from torch import nn

from methods.modules import EMAPair, frozen_copy


def pair(momentum: float, final: float) -> EMAPair:
    return EMAPair((nn.Linear(1, 1),), nn.Linear(1, 1), momentum, final)


def test_momentum_follows_byols_formula():
    tau_base, K = 0.99, 50
    for k in range(K + 1):
        tau = 1 - (1 - tau_base) * (math.cos(math.pi * k / K) + 1) / 2  # Grill et al., arXiv:2006.07733, section 3.2
        assert pair(tau_base, 1.0).momentum_at(k / K) == pytest.approx(tau, rel=1e-12)


def test_ends_of_the_schedule():
    assert pair(0.9, 0.95).momentum_at(0) == pytest.approx(0.9)
    assert pair(0.9, 0.95).momentum_at(0.5) == pytest.approx(0.925)
    assert pair(0.9, 0.95).momentum_at(1) == 0.95
    assert {pair(0.9, 0.9).momentum_at(k / 10) for k in range(11)} == {0.9}


def test_a_copy_is_equal_apart_and_frozen():
    student = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    teacher = frozen_copy(student)
    assert all(
        torch.equal(a, b) for a, b in zip(student.state_dict().values(), teacher.state_dict().values(), strict=True)
    )
    assert all(p.requires_grad for p in student.parameters())
    assert not any(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        student[0].weight.add_(1)
    assert not torch.equal(student[0].weight, teacher[0].weight)
    teacher(torch.randn(4, 3))
    assert int(teacher[1].num_batches_tracked) == 1
    assert int(student[1].num_batches_tracked) == 0
