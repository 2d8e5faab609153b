"""Variance and covariance against double loops, and what must leave them unchanged."""

import pytest
import torch

from datamodules.errors import UserError
from methods.losses.vicreg import variance_and_covariance


def test_equals_a_double_loop():
    z = torch.randn(7, 4, dtype=torch.float64) * torch.tensor([0.2, 0.8, 1.0, 3.0], dtype=torch.float64)
    centred = z - z.mean(0)
    shortfall = sum(max(0.0, 1 - float((z[:, j].var() + 1e-4).sqrt())) for j in range(4)) / 4
    shared = sum(float((centred[:, i] * centred[:, j]).sum() / 6) ** 2 for i in range(4) for j in range(4) if i != j)
    expected = torch.tensor([shortfall, shared / 4], dtype=torch.float64)
    torch.testing.assert_close(variance_and_covariance(z), expected)


def test_gradient_is_that_of_the_value():
    z = (torch.randn(6, 3, dtype=torch.float64) / 2).requires_grad_()
    assert torch.autograd.gradcheck(variance_and_covariance, z)


def test_collapse_costs_the_whole_deviation_and_has_a_gradient():
    z = torch.ones(6, 3) + torch.randn(6, 3) * 1e-6
    z.requires_grad_()
    variance, covariance = variance_and_covariance(z)
    torch.testing.assert_close(variance, torch.tensor(0.99), rtol=1e-4, atol=0)  # 1 - sqrt(eps)
    torch.testing.assert_close(covariance, torch.tensor(0.0))
    variance.backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_varied_and_uncorrelated_coordinates_cost_nothing():
    orthogonal, _ = torch.linalg.qr(torch.randn(32, 6, dtype=torch.float64) - 0.0)
    centred = orthogonal - orthogonal.mean(0)
    whitened, _ = torch.linalg.qr(centred)
    z = whitened * 31**0.5
    torch.testing.assert_close(variance_and_covariance(z), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(variance_and_covariance(z + 5), variance_and_covariance(z), rtol=0, atol=1e-12)


def test_a_single_image_does_not_vary():
    with pytest.raises(UserError, match="the batch has one"):
        variance_and_covariance(torch.ones(1, 2))
