"""Alignment and uniformity: positives close to each other, all features spread over the sphere.

Wang, Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere",
ICML 2020, arXiv:2005.10242. Two terms to train with; the metrics of the same names, without gradient and for features
of any norm, are in `callbacks.representation`.
"""

import math

import torch
from torch import Tensor

from datamodules.errors import UserError
from methods.distributed import gather, rank, world_size
from methods.losses.precision import full_precision


@full_precision
def alignment(x: Tensor, y: Tensor, alpha: float = 2.0) -> Tensor:
    """Mean distance of positive pairs, to the power of alpha; section 4.1.

    Args:
        x: [B, d] unit-norm.
        y: [B, d] unit-norm; row i shows the same image as row i of x.
        alpha: >= 1; 2 gives 2 - 2 cos.

    Returns:
        Scalar mean over the local pairs, in [0, 2 ** alpha]; 0 when views agree.
    """
    return torch.linalg.vector_norm(x - y, dim=1).pow(alpha).mean()


@full_precision
def uniformity(x: Tensor, t: float = 2.0, queue: Tensor | None = None, in_batch: bool = True) -> Tensor:
    """Logarithm of the mean Gaussian potential exp(-t |x_i - x_j|^2) of pairs of different images; section 4.1.

    The potentials of all ranks are added before the logarithm, so that this is the value of one process with the global
    batch, and equal on all ranks. The mean of the ranks' own values would be another, looser estimate.

    Args:
        x: [B, d] unit-norm features of one view, with gradient.
        t: sharpness of the potential, > 0; values at different t do not compare.
        queue: [K, d] unit-norm, further features to keep away from, no gradient: each with every row of x is a pair.
        in_batch: the N (N - 1) / 2 pairs of the global batch's N rows count. Without them there must be a queue.

    Returns:
        Scalar, <= 0: 0 when all are alike, towards -2t when spread evenly in many dimensions.

    Raises:
        UserError: the global batch is a single image, which makes no pair.
    """
    B = len(x)
    sums, pairs = [], 0.0
    if in_batch:
        everybody = gather(x)  # [N, d]
        N = len(everybody)
        if N < 2:
            raise UserError("Uniformity compares images, and the batch has one: set data.batch_size to at least 2.")
        itself = torch.arange(B, device=x.device)[:, None] + rank() * B
        exponent = (-t * _squared_distances(x, everybody)).scatter(1, itself, -torch.inf)  # [B, N]
        sums.append(exponent.logsumexp((0, 1)) - math.log(2))  # every pair is met from both its ends
        pairs += N * (N - 1) / 2
    if queue is not None:
        sums.append((-t * _squared_distances(x, queue)).logsumexp((0, 1)))
        pairs += B * world_size() * len(queue)
    return gather(torch.stack(sums)).logsumexp(0) - math.log(pairs)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[B, N] from [B, d] and [N, d], by one matrix product: the rounding errors near 0 do not matter to exp."""
    return x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
