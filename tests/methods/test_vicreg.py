"""VICReg against lightly's loss, which is exact, and what its three terms keep up."""

import pytest
import torch
from lightly.loss import VICRegLoss
from torch import Tensor, nn

from datamodules.errors import UserError
from methods.base import StepOutput
from methods.vicreg import VICReg
from tests.support.methods import small


def contrast(z1: Tensor, z2: Tensor, **weights: float) -> StepOutput:
    module = small(VICReg, **weights)
    assert isinstance(module, VICReg)
    return module.contrast({"z1": z1, "z2": z2, "h1": z1, "h2": z2})


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 2.0, 3.0)])
def test_equals_lightly(weights):
    z1, z2 = (torch.randn(10, 6, dtype=torch.float64) * 0.9).requires_grad_(), torch.randn(10, 6, dtype=torch.float64)
    z2.requires_grad_()
    names = ("invariance_weight", "variance_weight", "covariance_weight")
    ours, theirs = contrast(z1, z2, **dict(zip(names, weights, strict=True))).loss, VICRegLoss(*weights)(z1, z2)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for mine, other in zip(torch.autograd.grad(ours, (z1, z2)), torch.autograd.grad(theirs, (z1, z2)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("variance_weight", "collapses"), [(25.0, False), (0.0, True)])
def test_the_variance_is_what_keeps_it_from_collapse(variance_weight, collapses):
    generator = torch.Generator().manual_seed(0)
    projector = nn.Linear(16, 8)
    optimizer = torch.optim.Adam(projector.parameters(), lr=0.03)
    for _ in range(150):
        shared = torch.randn(128, 16, generator=generator)
        z1, z2 = (projector(shared + 0.3 * torch.randn(128, 16, generator=generator)) for _ in range(2))
        output = contrast(z1, z2, variance_weight=variance_weight)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    deviation = z1.detach().std(0)
    assert (deviation.max() < 0.1) if collapses else (deviation.min() > 0.8)
    assert output.logs["covariance"] < 0.3


def test_says_what_is_wrong():
    with pytest.raises(UserError, match="at least 0"):
        small(VICReg, covariance_weight=-1.0)
