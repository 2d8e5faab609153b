"""Means, variances and products over the rows of all ranks, with the gradient that one process would have.

All ranks hold the same number of rows.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from methods.distributed import gather, world_size


class _MeanOverRanks(torch.autograd.Function):
    """Mean of a tensor over the ranks, for a loss that is the same function of it on every rank.

    The mean over ranks of those losses, which is what DDP differentiates, then has the gradient of any one of them:
    nothing needs to be exchanged in backward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        mean = x / world_size()
        dist.all_reduce(mean)
        return mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each column over the global batch; two passes, so large means cancel nothing.

    Args:
        x: [B, d].

    Returns:
        [d] and [d], equal on all ranks; each rank may do with them what it likes.
    """
    mean = gather(x.mean(0, keepdim=True)).mean(0)
    variance = gather((x - mean).square().mean(0, keepdim=True)).mean(0)
    return mean, variance


def mean_product(x: Tensor, y: Tensor) -> Tensor:
    """Mean over the global batch of the outer product of row i of x and row i of y.

    Args:
        x: [B, d].
        y: [B, e].

    Returns:
        [d, e], equal on all ranks. What is made of it must be the same on all ranks too, or the gradient is wrong.
    """
    product = x.T @ y / len(x)
    return _MeanOverRanks.apply(product) if world_size() > 1 else product  # pyright: ignore[reportReturnType]
