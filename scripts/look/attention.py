"""Where a vision transformer looks: the attention of its last block, over the image.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.14294, figure 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn

from callbacks.report.sample import VIEW
from datamodules.errors import UserError
from methods.modules.vit import is_vit
from scripts.look.figures import Cell, picture_sheet
from scripts.look.pictures import Shown

_COLOURS = colormaps["viridis"]  # even steps of lightness, for all eyes
_STRENGTH = 0.6  # of the colours over the image


@torch.no_grad()
def attention(network: Any, images: Tensor) -> Tensor:
    """How much each patch weighs in the last block, for each head.

    Of the class token's attention, the part that goes to the patches; where there is no class token, the mean over
    the patches that attend. Taken from queries and keys, as fused attention shows no weights.

    Args:
        network: a vision transformer of timm's.
        images: [B, C, H, W] normalised.

    Returns:
        [B, heads, h, w], h x w patches.

    Raises:
        UserError: the network is another.
    """
    from timm.layers import Attention  # a second of import time that other pictures need not pay

    layer = network.blocks[-1].attn if is_vit(network) and len(network.blocks) else None
    if type(layer) is not Attention:
        raise UserError(
            f"The network is a {type(network).__name__}, and attention is shown of timm's plain vision transformers "
            "alone, such as timm/vit_small_patch16_224. See where a ResNet groups images with map and neighbours."
        )
    q, k = _outputs(network, [layer.q_norm, layer.k_norm], images)  # [B, heads, tokens, d] each
    weights = (q * layer.scale @ k.transpose(-2, -1)).softmax(-1)
    prefix = network.num_prefix_tokens
    attending = slice(0, 1) if network.cls_token is not None else slice(prefix, None)
    seen = weights[:, :, attending, prefix:].mean(2)
    grid = network.patch_embed.dynamic_feat_size(images.shape[2:])
    return seen.unflatten(2, grid)


def _outputs(network: nn.Module, layers: Sequence[nn.Module], images: Tensor) -> list[Tensor]:
    """What the layers put out while the network sees the images."""
    found: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, _: Any, output: Tensor) -> None:
        found[layer] = output

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        network.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[layer] for layer in layers]


def overlay(image: np.ndarray, weights: Tensor) -> np.ndarray:
    """[H, W, 3] uint8: an image, enlarged, under the colours of its patches' weights, from dark for the smallest.

    Args:
        image: [h, w] or [h, w, 3] uint8.
        weights: [h', w'] of its patches.
    """
    base = enlarged(image)
    large = F.interpolate(weights[None, None], base.shape[:2], mode="bicubic", align_corners=False)[0, 0].clamp(
        weights.min(), weights.max()
    )
    low, high = large.min(), large.max()
    heat = _COLOURS(((large - low) / (high - low).clamp(min=1e-12)).numpy())[:, :, :3] * 255
    grey = base.reshape(*base.shape[:2], -1).mean(
        2, keepdims=True
    )  # colours of the image would mix with those of the weights
    return (_STRENGTH * heat + (1 - _STRENGTH) * grey).round().astype(np.uint8)


def enlarged(image: np.ndarray) -> np.ndarray:
    """A small image with each pixel repeated: on its own few pixels the colours of its patches would be coarse."""
    zoom = max(1, round(VIEW / max(image.shape[:2])))
    return image.repeat(zoom, 0).repeat(zoom, 1)


def draw(network: Any, shown: Shown, title: str) -> Figure:
    """A row for each image: itself, the mean of the heads, each head.

    Args:
        network: see `attention`.
        shown: the images.
        title: of the picture.
    """
    weights = attention(network, shown.inputs)
    rows = [
        [Cell(enlarged(image)), Cell(overlay(image, heads.mean(0))), *(Cell(overlay(image, head)) for head in heads)]
        for image, heads in zip(shown.pictures, weights, strict=True)
    ]
    heads = ["image", "mean of heads", *(f"head {i + 1}" for i in range(weights.shape[1]))]
    h, w = weights.shape[2:]
    whose = "Attention of the class token" if network.cls_token is not None else "Mean attention of the patches"
    note = (
        f"{whose} to the {h} x {w} patches, in the last block. Each picture goes from its smallest weight (dark blue) "
        "to its largest (yellow)."
    )
    return picture_sheet(rows, title, note, heads, shown.names if any(shown.names) else (), apart=True)
