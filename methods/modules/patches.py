"""Cells of pictures: a grid cut into its cells, pictures pasted from cells, and features of several cells as one."""

import functools
import itertools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError


def divide(images: Tensor, m: int) -> Tensor:
    """Cuts images into an m x m grid.

    Args:
        images: [B, C, H, W], sides divisible by m.
        m: cells along each side.

    Returns:
        [B, m * m, C, H / m, W / m]; cells run down the columns: top left, bottom left, top right, bottom right.

    Raises:
        UserError: m does not divide the sides.
    """
    H, W = images.shape[2:]
    if H % m or W % m:
        raise UserError(
            f"Views of {H} x {W} pixels do not divide into {m} x {m} equal cells: set --model.cells_per_side to a "
            f"divisor of {H}, or --data.image_size (and the sizes in data.views, where they are spelled out) to a "
            f"multiple of {m}."
        )
    grid = images.unflatten(3, (m, -1)).unflatten(2, (m, -1))  # [B, C, row, H / m, column, W / m]
    return grid.permute(0, 4, 2, 1, 3, 5).flatten(1, 2)


def montage(cells: Tensor, m: int) -> Tensor:
    """Pastes m x m cells into one picture, the inverse of `divide`.

    Args:
        cells: [B, m * m, C, h, w], down the columns; a picture's cells may come from as many images.
        m: cells along each side.

    Returns:
        [B, C, m * h, m * w].
    """
    grid = cells.unflatten(1, (m, m))  # [B, column, row, C, h, w]
    return grid.permute(0, 3, 2, 4, 1, 5).flatten(4, 5).flatten(2, 3)


def pool_cells(feature_map: Tensor, m: int) -> Tensor:
    """Takes the mean of a feature map over each of the m x m cells that its picture was pasted from.

    A map whose sides m does not divide is resized to the next multiple first, as in Chen et al., "Jigsaw Clustering for
    Unsupervised Visual Representation Learning", CVPR 2021, arXiv:2104.00323 (7 x 7 to 8 x 8 for m = 2).

    Args:
        feature_map: [B, D, h, w].
        m: cells along each side.

    Returns:
        [B, m * m, D], down the columns.
    """
    h, w = (m * math.ceil(side / m) for side in feature_map.shape[2:])
    if feature_map.shape[2:] != (h, w):
        feature_map = F.interpolate(feature_map, (h, w), mode="bilinear")
    pooled = F.avg_pool2d(feature_map, (h // m, w // m))  # [B, D, row, column]
    return pooled.permute(0, 3, 2, 1).flatten(1, 2)


def stagger(cells: Tensor, step: int) -> Tensor:
    """Hands cell i of every image to the image i * step rows further on, around the end of the batch.

    Args:
        cells: [B, M, ...].
        step: 1 spreads the cells of an image over M others (over all, where B < M); -1 brings them back.

    Returns:
        [B, M, ...].
    """
    return torch.stack([cell.roll(i * step, 0) for i, cell in enumerate(cells.unbind(1))], dim=1)


def combine(features: Tensor, n: int, by: Literal["mean", "max"] = "mean", gamma: float | None = None) -> Tensor:
    """Makes one feature of every n of an image's cells.

    Ci et al., "Fast-MoCo: Boost Momentum-based Contrastive Learning with Combinatorial Patches", ECCV 2022,
    arXiv:2207.08220, section 3.

    Args:
        features: [B, M, D], one row for each cell.
        n: cells in a combination, from 1 to M.
        by: their mean, or the maximum of each feature.
        gamma: weight of the first cell of a pair in the mean, 1 - gamma that of the second; None for equal weights.

    Returns:
        [B, S, D] with S = M! / (n! (M - n)!), the subsets in lexicographic order.
    """
    assert gamma is None or (n == 2 and by == "mean"), "only the mean of a pair has a weight gamma"
    cells = features.unbind(1)  # [B, D] each; indexing in the loop would cost a full-size gradient every time
    subsets = list(itertools.combinations(cells, n))
    members = [torch.stack(member, dim=1) for member in zip(*subsets, strict=True)]  # n of [B, S, D]
    if by == "max":
        return functools.reduce(torch.maximum, members)
    if gamma is not None:
        return gamma * members[0] + (1 - gamma) * members[1]
    return sum(members[1:], members[0]) / n
