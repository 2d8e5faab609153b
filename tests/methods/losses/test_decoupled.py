"""Decoupled contrast against double loops and lightly, on one rank and on two."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DCLLoss, DCLWLoss
from torch import Tensor

from datamodules.errors import UserError
from methods.losses import nt_xent
from methods.losses.decoupled import decoupled_nt_xent, positive_weight
from tests.support.ranks import on_ranks

T = 0.2
sigmas = pytest.mark.parametrize("sigma", [None, 0.5])


def unit(B: int = 8, d: int = 4, seed: int = 0) -> Tensor:
    """[2, B, d] float64 unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(2, B, d, dtype=torch.float64, generator=generator), dim=-1)


def naive(z: Tensor, sigma: float | None) -> float:
    B, total = z.shape[1], 0.0
    agreement = [float(z[0, i] @ z[1, i]) for i in range(B)]
    for k in range(2):
        for i in range(B):
            others = [math.exp(float(z[k, i] @ z[m, j]) / T) for m in range(2) for j in range(B) if j != i]
            weight = 1.0
            if sigma is not None:
                weight = 2 - math.exp(agreement[i] / sigma) / (sum(math.exp(a / sigma) for a in agreement) / B)
            total += -weight * agreement[i] / T + math.log(sum(others))
    return total / (2 * B)


@sigmas
def test_equals_a_double_loop(sigma):
    z = unit()
    assert float(decoupled_nt_xent(z[0], z[1], T, sigma)) == pytest.approx(naive(z, sigma), rel=1e-12)


@sigmas
@pytest.mark.filterwarnings("ignore:.*copy construct from a tensor.*")  # lightly's weights
def test_equals_lightly(sigma):
    z = unit().requires_grad_()
    ours = decoupled_nt_xent(z[0], z[1], T, sigma)
    theirs = (DCLLoss(T) if sigma is None else DCLWLoss(T, sigma))(z[0], z[1])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    (mine,), (other,) = torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)
    along = (other * z).sum(-1, keepdim=True) * z  # lightly normalises once more: no gradient along the vectors
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-12)
    torch.testing.assert_close(mine - (mine * z).sum(-1, keepdim=True) * z, other, rtol=1e-9, atol=1e-12)


def test_gradient_is_that_of_the_value():
    z = unit(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: decoupled_nt_xent(z[0], z[1], T), z)


def test_the_positive_does_not_weaken_the_pull():
    """NT-Xent multiplies its gradient by 1 - p(positive), which is small for easy pairs; ours does not."""
    z1, z2 = unit(16, 32)
    easy = F.normalize(z1 + 0.1 * z2, dim=1)

    def pull(loss) -> float:
        z = z1.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(z, easy, 0.1), z)
        return float(grad.norm())

    assert pull(decoupled_nt_xent) > 20 * pull(nt_xent)


def test_alike_images_and_weights():
    z = F.normalize(torch.ones(6, 4), dim=1)
    assert float(decoupled_nt_xent(z, z, 0.1)) == pytest.approx(math.log(2 * 6 - 2), rel=1e-6)
    cosine = torch.tensor([-0.5, 0.0, 0.9])
    weight = positive_weight(cosine, 0.5)
    assert float(weight.mean()) == pytest.approx(1, rel=1e-6)
    assert weight[0] > weight[1] > weight[2]
    torch.testing.assert_close(positive_weight(cosine, 1e4), torch.ones(3), rtol=0, atol=1e-3)


def share(rank: int, ranks: int, sigma: float | None) -> tuple[np.ndarray, np.ndarray]:
    B = 8 // ranks
    z = unit()[:, rank * B : (rank + 1) * B].clone().requires_grad_()
    loss = decoupled_nt_xent(z[0], z[1], T, sigma)
    loss.backward()
    assert z.grad is not None
    return loss.detach().numpy(), z.grad.numpy()


def shares(rank: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {str(sigma): share(rank, 2, sigma) for sigma in (None, 0.5)}


@pytest.mark.ddp
def test_two_ranks_equal_one_process():
    answers = on_ranks(2, shares)
    for sigma in (None, 0.5):
        loss, grad = share(0, 1, sigma)
        np.testing.assert_allclose(np.mean([a[str(sigma)][0] for a in answers]), loss, rtol=1e-12)
        both = np.concatenate([a[str(sigma)][1] for a in answers], axis=1) / 2
        np.testing.assert_allclose(both, grad, rtol=1e-9, atol=1e-12)


def test_a_single_image_has_no_negatives():
    with pytest.raises(UserError, match="the batch has one"):
        decoupled_nt_xent(torch.ones(1, 2), torch.ones(1, 2), 0.1)
