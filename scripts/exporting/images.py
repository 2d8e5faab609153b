"""Which images a network takes, as far as its file or the network itself says."""

from typing import Any

import torch
from torch import Tensor

from methods.backbones import channels_of, fixed_image_size
from methods.pretrained import Pretrained

USUAL_SIDE = 224  # pixels, where nothing says otherwise


def channels(pretrained: Pretrained) -> int:
    """Channels of the images."""
    return channels_of(pretrained.backbone) or pretrained.config.in_channels


def side(pretrained: Pretrained) -> int | None:
    """Side in pixels of the images: the only one that the network takes, else that of its training if known."""
    network: Any = pretrained.backbone
    if fixed_image_size(network):
        own = getattr(getattr(network, "patch_embed", None), "img_size", None) or getattr(network, "image_size", None)
        return own[0] if isinstance(own, tuple) else own
    return (pretrained.images or {}).get("image_size")


@torch.no_grad()
def takes_other_sizes(pretrained: Pretrained) -> bool:
    """Whether images of twice the side go through the network as well."""
    if fixed_image_size(pretrained.backbone):
        return False
    larger = 2 * (side(pretrained) or USUAL_SIDE)
    try:
        pretrained.backbone(torch.zeros(1, channels(pretrained), larger, larger))
    except (AssertionError, RuntimeError, ValueError):  # whatever a network says to a size that is not its own
        return False
    return True


def random_images(pretrained: Pretrained) -> list[Tensor]:
    """Batches [B, C, H, W] of several sizes B, and of a second image size where the network takes it."""
    usual = side(pretrained) or USUAL_SIDE
    other = 2 * usual if takes_other_sizes(pretrained) else usual
    draw = torch.Generator().manual_seed(0)
    shapes = [(3, usual), (1, other)]
    return [torch.randn(B, channels(pretrained), side, side, generator=draw) for B, side in shapes]
