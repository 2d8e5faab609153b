"""Position embeddings of a vision transformer for crops of another size, as DINO's code interpolates them.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.14294, in the authors'
code; also iBOT's and EsViT's. This file imports timm, which takes a second: import it where there is a ViT.
"""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

_NUDGE = 0.1  # of a patch, in the scale: against sizes that a rounding would make one patch too small


def interpolate_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Bicubic, by a scale of (new + 0.1) / old patches a side, which places them slightly otherwise than their number.

    Args:
        positions: [1, 1 + h * w, D], the class token's first.
        grid: h and w, that they are for.
        new_grid: patches from top to bottom and from left to right of the images at hand.

    Returns:
        [1, 1 + new h * new w, D]; `positions` themselves where the grids are the same.
    """
    if new_grid == grid:
        return positions
    weights = _bicubic(grid, new_grid, positions.dtype, positions.device)
    return torch.cat([positions[:, :1], weights @ positions[:, 1:]], dim=1)


def _bicubic(grid: tuple[int, int], new_grid: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[new h * new w, h * w], the interpolation as a matrix: its own backward is not deterministic on CUDA."""
    one_each = torch.eye(grid[0] * grid[1], dtype=dtype, device=device).unflatten(1, (1, *grid))
    scale = tuple((new + _NUDGE) / old for new, old in zip(new_grid, grid, strict=True))
    shares = F.interpolate(one_each, scale_factor=scale, mode="bicubic")  # pyright: ignore[reportArgumentType]
    assert shares.shape[-2:] == new_grid, f"positions for {new_grid} patches came out as {tuple(shares.shape[-2:])}"
    return shares.flatten(1).T


class DINOVisionTransformer(VisionTransformer):
    """A ViT that takes crops of several sizes as DINO's code does."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        assert self.pos_embed is not None and self.cls_token is not None, "interpolate_as_dino takes no such network"
        B, h, w, _ = x.shape
        positions = interpolate_positions(self.pos_embed, self.patch_embed.grid_size, (h, w))
        tokens = torch.cat([self.cls_token.expand(B, -1, -1), x.flatten(1, 2)], dim=1)
        return self.pos_drop(tokens + positions)


def interpolate_as_dino(network: nn.Module) -> nn.Module:
    """Makes a ViT of timm's interpolate its positions as DINO's code does, in place; all else stays, names included.

    Args:
        network: a plain ViT with one class token that has a position, built with `dynamic_img_size: true`. Others keep
            their own way (timm's is antialiased, and scales by the numbers of patches).

    Returns:
        The same network.
    """
    if (
        type(network) is VisionTransformer
        and network.dynamic_img_size
        and network.pos_embed is not None
        and network.num_prefix_tokens == 1
        and network.cls_token is not None
        and not network.no_embed_class
    ):
        network.__class__ = DINOVisionTransformer
    return network
