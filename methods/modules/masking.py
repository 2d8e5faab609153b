"""Patches of images: as vectors of pixels, and which of them are hidden.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, section 3. Patches are
numbered along the rows, from the top left.
"""

from typing import NamedTuple

from torch import Tensor


def patchify(images: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Cuts images into patches.

    Args:
        images: [B, C, H, W].
        patch_size: height and width of a patch in pixels; they divide H and W.

    Returns:
        [B, L, P] with P = height * width * C; within a patch row by row, the channels of a pixel together.
    """
    height, width = patch_size
    grid = images.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # [B, C, rows, height, columns, width]
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch_size: tuple[int, int], grid_size: tuple[int, int]) -> Tensor:
    """Puts patches together again, the inverse of `patchify`.

    Args:
        patches: [B, L, P].
        patch_size: height and width of a patch in pixels.
        grid_size: patches from top to bottom and from left to right, L in all.

    Returns:
        [B, C, H, W].
    """
    grid = patches.unflatten(2, (*patch_size, -1)).unflatten(1, grid_size)  # [B, rows, columns, height, width, C]
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class PatchMask(NamedTuple):
    """Which patches of each image are hidden.

    Attributes:
        kept: [B, N] int64, positions of the N visible patches, in random order.
        restore: [B, L] int64, for each patch its place among the visible ones and, from N on, the hidden ones.
        hidden: [B, L] bool, True = hidden.
    """

    kept: Tensor
    restore: Tensor
    hidden: Tensor


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """Patches that stay visible, rounded as in the authors' code.

    It computes the share that is kept in floating point and cuts off: 9 of 100 are left at a ratio of 0.9.
    """
    return int(num_patches * (1 - mask_ratio))


def random_mask(noise: Tensor, mask_ratio: float) -> PatchMask:
    """Keeps the patches with the least noise.

    Args:
        noise: [B, L], one number for each patch.
        mask_ratio: share of the patches that are hidden, in [0, 1].
    """
    N = num_visible(noise.shape[1], mask_ratio)
    order = noise.argsort(dim=1, stable=True)  # stable: equal numbers must not fall differently on another device
    restore = order.argsort(dim=1)
    return PatchMask(kept=order[:, :N], restore=restore, hidden=restore >= N)
