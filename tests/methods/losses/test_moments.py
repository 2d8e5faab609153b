"""Statistics over all ranks, and losses made of them, equal those of one process, gradient included."""

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.losses.cross_correlation import cross_correlation, distance_to_identity
from methods.losses.moments import mean_and_variance, mean_product
from methods.losses.vicreg import variance_and_covariance
from tests.support.ranks import on_ranks


def rows(seed: int) -> Tensor:
    """[8, 5] float64, far from zero mean."""
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 10


def test_mean_variance_and_product_of_one_process():
    x, y = rows(0), rows(1)
    mean, variance = mean_and_variance(x)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(variance, x.var(0, correction=0))
    expected = sum(torch.outer(a, b) for a, b in zip(x, y, strict=True)) / 8
    torch.testing.assert_close(mean_product(x, y), expected)


def test_a_large_mean_takes_nothing_from_the_variance():
    x = torch.randn(64, 3)
    torch.testing.assert_close(mean_and_variance(x + 1000)[1], mean_and_variance(x)[1], rtol=1e-3, atol=0)


def value(case: str, x: Tensor, y: Tensor, first: int) -> Tensor:
    """A loss of this rank, whose first row has the number `first` in the global batch."""
    if case == "mean and variance":  # here each rank makes something of its own of them
        mean, variance = mean_and_variance(x)
        weight = torch.arange(first, first + len(x), dtype=torch.float64)[:, None]
        return (weight * (x - mean) / variance.sqrt()).square().mean()
    if case == "product":
        return mean_product(x, y).sin().sum()
    if case == "Barlow Twins":
        return distance_to_identity(cross_correlation(x, y), 0.1)
    return variance_and_covariance(x / 4) @ torch.tensor([25.0, 1.0], dtype=torch.float64)


CASES = ["mean and variance", "product", "Barlow Twins", "VICReg"]


def share(rank: int, ranks: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    B = 8 // ranks
    part = slice(rank * B, (rank + 1) * B)
    answers = {}
    for case in CASES:
        x, y = (rows(seed)[part].clone().requires_grad_() for seed in (0, 1))
        loss = value(case, x, y, rank * B) + 0 * (x.sum() + y.sum())
        grads = torch.autograd.grad(loss, (x, y))
        answers[case] = (loss.detach().numpy(), *(grad.numpy() for grad in grads))
    return answers


@pytest.mark.ddp
def test_two_ranks_equal_one_process():
    answers = on_ranks(2, share, 2)
    for case, (loss, *grads) in share(0, 1).items():
        np.testing.assert_allclose(np.mean([a[case][0] for a in answers]), loss, rtol=1e-12, err_msg=case)
        for place, grad in enumerate(grads, start=1):  # DDP's mean over two ranks
            both = np.concatenate([a[case][place] for a in answers]) / 2
            np.testing.assert_allclose(both, grad, rtol=1e-9, atol=1e-12, err_msg=case)
