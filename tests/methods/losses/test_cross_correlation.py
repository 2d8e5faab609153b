"""Barlow Twins' loss against a double loop, lightly, and what must leave it unchanged."""

import pytest
import torch
from lightly.loss import BarlowTwinsLoss
from torch import Tensor

from methods.losses.cross_correlation import cross_correlation, distance_to_identity


def views(B: int = 12, d: int = 5) -> Tensor:
    """[2, B, d] float64, the second view like the first."""
    z = torch.randn(2, B, d, dtype=torch.float64)
    return torch.stack([z[0], z[0] + z[1] / 2])


def test_equals_numpys_correlation_and_a_double_loop():
    z1, z2 = views()
    c = cross_correlation(z1, z2, eps=0.0)
    torch.testing.assert_close(c, torch.corrcoef(torch.cat([z1, z2], dim=1).T)[:5, 5:])
    expected = sum((c[i, j] - 1) ** 2 if i == j else 0.3 * c[i, j] ** 2 for i in range(5) for j in range(5))
    torch.testing.assert_close(distance_to_identity(c, 0.3), expected)


def test_equals_lightly():
    z1, z2 = views().requires_grad_()
    ours = distance_to_identity(cross_correlation(z1, z2), 0.005)
    theirs = BarlowTwinsLoss(lambda_param=0.005)(z1, z2)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    for mine, other in zip(torch.autograd.grad(ours, (z1, z2)), torch.autograd.grad(theirs, (z1, z2)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-12)


def test_gradient_is_that_of_the_value():
    z = views(B=6, d=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: distance_to_identity(cross_correlation(z[0], z[1]), 0.2), z)


def test_a_view_correlates_with_itself_by_a_little_less_than_one():
    z = views()[0] * 0.01
    variance = z.var(0, correction=0)
    torch.testing.assert_close(cross_correlation(z, z).diagonal(), variance / (variance + 1e-5))


def test_order_of_images_scale_and_shift_of_coordinates_do_not_matter():
    z1, z2 = views()
    expected = cross_correlation(z1, z2, eps=0.0)
    order = torch.randperm(len(z1))
    torch.testing.assert_close(cross_correlation(z1[order], z2[order], eps=0.0), expected)
    torch.testing.assert_close(cross_correlation(z1 * 7 - 3, z2, eps=0.0), expected)
    assert not torch.allclose(cross_correlation(z1[order], z2, eps=0.0), expected, atol=0.1)  # the pairs do


def test_the_identity_costs_nothing_and_constant_coordinates_are_no_trouble():
    assert distance_to_identity(torch.eye(4), 0.5) == 0
    assert float(distance_to_identity(torch.ones(4, 4), 0.5)) == pytest.approx(0.5 * 12)
    z = torch.ones(6, 3, requires_grad=True)
    distance_to_identity(cross_correlation(z, z), 0.5).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
