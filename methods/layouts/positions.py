"""Positions of a ViT for images of another size than it was trained on."""

import math
from typing import Any

from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from methods.modules.vit import is_vit


def resized_positions(network: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the position embedding interpolated to the network's grid, said in a line where it is needed.

    Bicubic with antialiasing, as timm does (Dosovitskiy et al., arXiv:2010.11929, section 3.2: fine-tuning at higher
    resolution). Rows of class and other tokens stay. Other networks than ViTs of timm's pass, and so does an embedding
    of a grid that is no square, which then does not fit.

    Args:
        network: that is to take the tensors.
        tensors: under its names.
    """
    found, wanted = tensors.get("pos_embed"), getattr(network, "pos_embed", None)
    if not is_vit(network) or found is None or wanted is None or found.shape == wanted.shape:
        return tensors
    from timm.layers.pos_embed import resample_abs_pos_embed

    grid = network.patch_embed.grid_size
    prefix = wanted.shape[1] - grid[0] * grid[1]
    old = math.isqrt(max(0, found.shape[1] - prefix))
    if old == 0 or old**2 + prefix != found.shape[1] or found.shape[2] != wanted.shape[2]:
        return tensors
    rank_zero_info(f"Positions interpolated from {old}x{old} to {grid[0]}x{grid[1]} patches.")
    resized = resample_abs_pos_embed(found.float(), list(grid), [old, old], num_prefix_tokens=prefix)  # pyright: ignore[reportCallIssue]
    return tensors | {"pos_embed": resized}
