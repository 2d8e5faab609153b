"""PIRL's jigsaw: an image as nine small patches in random order, which tell what is in it but not where.

Misra, van der Maaten, "Self-Supervised Learning of Pretext-Invariant Representations", CVPR 2020, arXiv:1912.01991,
section 3.2.
"""

import torch
from torch import Tensor

from datamodules.errors import UserError

GRID = 3
PATCHES = GRID * GRID
NUMBERS = 3 * PATCHES
"""Uniform numbers that `jigsaw` takes for each image."""

_CELL, _PATCH = 85, 64  # pixels in the paper, where images have 255


def jigsaw(images: Tensor, numbers: Tensor) -> Tensor:
    """Cuts a random patch out of each cell of a 3 x 3 grid, and puts the nine patches of an image in random order.

    Args:
        images: [B, C, S, S]. Rows and columns that three equal cells leave over, at the far ends, are not used.
        numbers: [B, 27] uniform in [0, 1), which decide all that is random.

    Returns:
        [B, 9, C, s, s] with s = 64/85 of a cell, rounded (paper: 64 of 85 pixels in a 255-pixel image).

    Raises:
        UserError: images of less than 3 pixels.
    """
    cell = min(images.shape[2:]) // GRID
    if cell == 0:
        raise UserError(
            f"A jigsaw has {GRID} x {GRID} cells, too many for a local view of {tuple(images.shape[2:])} pixels: give "
            "the local views of the recipe a larger size."
        )
    size = max(1, round(cell * _PATCH / _CELL))
    return cut(images, corners(numbers, cell, size), size)


def corners(numbers: Tensor, cell: int, size: int) -> Tensor:
    """Where the patches lie.

    Args:
        numbers: [B, 27] uniform in [0, 1): the first nine rank the cells, counted along the rows, the others place each
            of the nine patches in its cell, downwards and to the right.
        cell: side of a cell in pixels.
        size: side of a patch in pixels, at most that of a cell.

    Returns:
        [B, 9, 2] int64, row and column of each patch's first pixel; all places within a cell are equally likely.
    """
    order = numbers[:, :PATCHES].argsort(dim=1)  # [B, 9], the cell of each patch
    first = torch.stack([order // GRID, order % GRID], dim=2) * cell
    return first + (numbers[:, PATCHES:].unflatten(1, (PATCHES, 2)) * (cell - size + 1)).long()


def cut(images: Tensor, corners: Tensor, size: int) -> Tensor:
    """Cuts square patches out of images, other places in each.

    Args:
        images: [B, C, H, W].
        corners: [B, P, 2] int64, row and column of each patch's first pixel.
        size: side of a patch in pixels.

    Returns:
        [B, P, C, size, size].
    """
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # [B, C, rows, columns, size, size], a view
    image = torch.arange(len(images), device=images.device)[:, None]
    return windows[image, :, corners[..., 0], corners[..., 1]]
