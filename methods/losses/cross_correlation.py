"""Barlow Twins: the coordinates of two views should agree one by one, and have nothing else in common.

Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021, arXiv:2103.03230.
"""

from torch import Tensor

from methods.losses.moments import mean_and_variance, mean_product
from methods.losses.precision import full_precision


@full_precision
def cross_correlation(z1: Tensor, z2: Tensor, eps: float = 1e-5) -> Tensor:
    """Correlation of every coordinate of one view with every coordinate of the other, over the global batch; eq. (2).

    Standardised as by a BatchNorm without weights: biased variance plus `eps`, so that a coordinate's correlation with
    itself is slightly below 1.

    Args:
        z1: [B, d] projections of the first view, not normalised, with gradient.
        z2: [B, d] projections of the second view; row i shows the same image as row i of z1.
        eps: added to the variances.

    Returns:
        [d, d], equal on all ranks.
    """
    (mean1, variance1), (mean2, variance2) = mean_and_variance(z1), mean_and_variance(z2)
    return mean_product((z1 - mean1) * (variance1 + eps).rsqrt(), (z2 - mean2) * (variance2 + eps).rsqrt())


@full_precision
def distance_to_identity(correlation: Tensor, off_diagonal_weight: float) -> Tensor:
    """Squared distance of a matrix from the identity, with a weight of its own off the diagonal; eq. (1).

    Args:
        correlation: [d, d].
        off_diagonal_weight: the paper's lambda.

    Returns:
        Scalar sum over the entries, not divided by d.
    """
    on_diagonal = (correlation.diagonal() - 1).square().sum()
    off_diagonal = correlation.square().fill_diagonal_(0).sum()
    return on_diagonal + off_diagonal_weight * off_diagonal
