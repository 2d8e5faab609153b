"""MoCo v3's way to start a vision transformer.

Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.02057,
sections 4 and 5, as in the authors' code.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import UserError


def sincos_positions(height: int, width: int, dim: int, temperature: float = 10000.0) -> Tensor:
    """[height * width, dim]: fixed sine-cosine position embedding of a grid of patches.

    Each position has four quarters: sine and cosine of its coordinate along the width, then along the height. As in
    the authors' code the positions run down the columns while patches run along the rows, which differ on a grid that
    is not square.

    Args:
        height: patches from top to bottom.
        width: patches from left to right.
        dim: size of the embedding, a multiple of 4.
        temperature: base of the wavelengths.
    """
    if dim % 4:
        raise UserError(f"A sine-cosine position embedding needs a size divisible by 4, not {dim}.")
    frequency = temperature ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="ij")  # [width, height]
    angles = [axis.flatten()[:, None] * frequency for axis in (x, y)]  # [height * width, dim / 4] each
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1).float()


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
    height, width = network.patch_embed.grid_size
    prefix = network.pos_embed.shape[1] - height * width  # rows of the class token, where it has a position
    positions = sincos_positions(height, width, network.embed_dim)
    network.pos_embed = nn.Parameter(torch.cat([torch.zeros(prefix, network.embed_dim), positions])[None])
    network.pos_embed.requires_grad_(False)
    projection = network.patch_embed.proj
    bound = math.sqrt(6 / (projection.weight[0].numel() + network.embed_dim))
    nn.init.uniform_(projection.weight, -bound, bound)
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)
    if freeze_patch_embedding:
        projection.requires_grad_(False)
