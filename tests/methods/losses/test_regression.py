"""The loss that needs no negatives."""

import math

import pytest
import torch

from methods.losses import negative_cosine


def test_equals_a_loop():
    p, z = torch.randn(2, 6, 4, dtype=torch.float64)
    cosines = [sum(a * b for a, b in zip(x, y, strict=True)) / (x.norm() * y.norm()) for x, y in zip(p, z, strict=True)]
    torch.testing.assert_close(negative_cosine(p, z), -torch.stack(cosines).mean(), rtol=1e-12, atol=0)


def test_is_half_the_squared_distance_of_unit_vectors_less_one():
    p, z = torch.randn(2, 6, 4, dtype=torch.float64)
    unit_p, unit_z = p / p.norm(dim=1, keepdim=True), z / z.norm(dim=1, keepdim=True)
    distance = (unit_p - unit_z).square().sum(1).mean()
    assert float(distance) == pytest.approx(float(2 + 2 * negative_cosine(p, z)), rel=1e-12)


def test_ends_of_its_range_and_gradient():
    p = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert float(negative_cosine(p, 7 * p).detach()) == pytest.approx(-1)
    assert float(negative_cosine(p, -p).detach()) == pytest.approx(1)
    z = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: negative_cosine(p, z), p)


def test_bf16_is_widened_and_zeros_do_not_break_it():
    p = torch.randn(8, 16)
    assert negative_cosine(p.bfloat16(), p.bfloat16()).dtype == torch.float32
    assert math.isfinite(float(negative_cosine(torch.zeros(2, 3), torch.ones(2, 3))))
