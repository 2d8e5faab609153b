"""VICReg: views agree, each coordinate varies over the batch, and no two coordinates vary together.

Bardes, Ponce, LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning", ICLR 2022,
arXiv:2105.04906, section 4.1. The agreement, eq. (5), is the mean squared difference and needs no code of its own.
"""

import torch
from torch import Tensor

from datamodules.errors import UserError
from methods.distributed import world_size
from methods.losses.moments import mean_and_variance, mean_product
from methods.losses.precision import full_precision


@full_precision
def variance_and_covariance(z: Tensor, eps: float = 1e-4) -> Tensor:
    """How far the coordinates of one view fall short of a standard deviation of 1, and how much they share.

    Args:
        z: [B, d] projections, not normalised, with gradient; at least 2 rows over all ranks.
        eps: added to the variance, for a finite gradient where a coordinate does not vary.

    Returns:
        [2]: the mean over coordinates of max(0, 1 - std), eq. (1), and the sum of the squared covariances of different
        coordinates over d, eq. (4). Unbiased estimates over the global batch, equal on all ranks.

    Raises:
        UserError: the global batch is a single image, which does not vary.
    """
    N, d = len(z) * world_size(), z.shape[1]
    if N < 2:
        raise UserError("VICReg's variance is over images, and the batch has one: set data.batch_size to at least 2.")
    unbiased = N / (N - 1)
    mean, variance = mean_and_variance(z)
    shortfall = (1 - (variance * unbiased + eps).sqrt()).relu().mean()
    covariance = mean_product(z - mean, z - mean) * unbiased  # [d, d]
    return torch.stack([shortfall, covariance.square().fill_diagonal_(0).sum() / d])
