"""Crops of several sizes through one network."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor


def multi_crop(network: Callable[[Tensor], Tensor], crops: Sequence[Tensor]) -> Tensor:
    """Features of all crops; neighbours of equal size share a pass, and so BatchNorm's statistics.

    Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020,
    arXiv:2006.09882, section 3.3.

    Args:
        network: maps [N, C, H, W] to [N, D] for each of the sizes.
        crops: V tensors [B, C, H, W], of any sizes.

    Returns:
        [V * B, D], crop by crop.
    """
    passes = [torch.cat(list(equal)) for _, equal in groupby(crops, key=lambda crop: crop.shape[-2:])]
    return torch.cat([network(images) for images in passes])
