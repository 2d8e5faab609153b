"""Fixed positions for vision transformers, and MoCo v3's way to start one.

Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.02057,
sections 4 and 5, as in the authors' code.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import UserError


def sincos_positions(
    height: int, width: int, dim: int, temperature: float = 10000.0, along_rows: bool = False
) -> Tensor:
    """[height * width, dim]: fixed sine-cosine position embedding of a grid of patches.

    Each position has four quarters: sine and cosine of its coordinate along the width, then along the height.

    Args:
        height: patches from top to bottom.
        width: patches from left to right.
        dim: size of the embedding, a multiple of 4.
        temperature: base of the wavelengths.
        along_rows: positions run along the rows, as patches do (MAE), not down the columns as in MoCo v3's code, which
            makes a difference on a grid that is not square.
    """
    if dim % 4:
        raise UserError(f"A sine-cosine position embedding needs a size divisible by 4, not {dim}.")
    frequency = temperature ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    order = "xy" if along_rows else "ij"  # [height, width] or [width, height]
    x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing=order)
    angles = [axis.flatten()[:, None] * frequency for axis in (x, y)]  # [height * width, dim / 4] each
    table = torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)
    return table.to(torch.get_default_dtype())


def fixed_positions(grid_size: tuple[int, int], dim: int, num_prefix: int, along_rows: bool) -> nn.Parameter:
    """[1, num_prefix + L, dim]: `sincos_positions` that stay as they are, behind zeros for class and other tokens."""
    positions = sincos_positions(*grid_size, dim, along_rows=along_rows)
    table = torch.cat([torch.zeros(num_prefix, dim), positions])[None]
    return nn.Parameter(table, requires_grad=False)


def fix_positions(network: Any, along_rows: bool) -> None:
    """Gives a timm ViT sine-cosine positions in place of trained ones."""
    height, width = network.patch_embed.grid_size
    num_prefix = network.pos_embed.shape[1] - height * width  # rows of the class token, where it has a position
    network.pos_embed = fixed_positions((height, width), network.embed_dim, num_prefix, along_rows)


def is_vit(network: nn.Module) -> bool:
    """Whether the network cuts images into patches and has transformer blocks, as timm's ViTs do."""
    return hasattr(network, "patch_embed") and hasattr(network, "blocks")


def prepare_vit(network: Any, freeze_patch_embedding: bool) -> None:
    """Fixes the positions and draws the weights anew, in place.

    Args:
        network: a timm ViT with a class token and a plain patch embedding.
        freeze_patch_embedding: take the patch embedding out of training.

    Raises:
        UserError: the network has no class token, or a convolutional stem.
    """
    parts = (getattr(network, name, None) for name in ("cls_token", "pos_embed"))
    if any(part is None for part in parts) or not isinstance(network.patch_embed.proj, nn.Conv2d):
        raise UserError(
            "MoCo v3 needs a ViT with a class token, a position embedding and one convolution as patch embedding: "
            "choose another --model.backbone.name, such as timm/vit_small_patch16_224."
        )
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear):
            fan_out = layer.out_features // 3 if name.endswith("qkv") else layer.out_features  # three maps in one
            bound = math.sqrt(6 / (layer.in_features + fan_out))  # Xavier's
            nn.init.uniform_(layer.weight, -bound, bound)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            layer.eps = 1e-6
    nn.init.normal_(network.cls_token, std=1e-6)
    fix_positions(network, along_rows=False)
    projection = network.patch_embed.proj
    bound = math.sqrt(6 / (projection.weight[0].numel() + network.embed_dim))
    nn.init.uniform_(projection.weight, -bound, bound)
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)
    if freeze_patch_embedding:
        projection.requires_grad_(False)
