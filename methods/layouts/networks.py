"""Which network a set of weights belongs to: from what the file says of it, else from the shapes."""

import math
import re
from typing import Any

import torchvision
from torch import Tensor

from methods.backbones import BackboneConfig

RESNETS: dict[
    tuple, str
] = {  # blocks of the four stages, shape of the 3x3 filters of the first block, whether it is a bottleneck
    ((2, 2, 2, 2), (64, 64), False): "resnet18",
    ((3, 4, 6, 3), (64, 64), False): "resnet34",
    ((3, 4, 6, 3), (64, 64), True): "resnet50",
    ((3, 4, 23, 3), (64, 64), True): "resnet101",
    ((3, 8, 36, 3), (64, 64), True): "resnet152",
    ((3, 4, 6, 3), (128, 4), True): "resnext50_32x4d",
    ((3, 4, 23, 3), (256, 8), True): "resnext101_32x8d",
    ((3, 4, 23, 3), (256, 4), True): "resnext101_64x4d",
    ((3, 4, 6, 3), (128, 128), True): "wide_resnet50_2",
    ((3, 4, 23, 3), (128, 128), True): "wide_resnet101_2",
}
VITS = {  # width, blocks: timm's name, heads (which no shape shows), patch and image size that the name stands for
    (192, 12): ("timm/vit_tiny_patch16_224", 3, 16, 224),
    (384, 12): ("timm/vit_small_patch16_224", 6, 16, 224),
    (768, 12): ("timm/vit_base_patch16_224", 12, 16, 224),
    (1024, 24): ("timm/vit_large_patch16_224", 16, 16, 224),
    (1280, 32): ("timm/vit_huge_patch14_224", 16, 14, 224),
}
TORCHVISION_VITS = {(768, 16): "vit_b_16", (768, 32): "vit_b_32", (1024, 16): "vit_l_16", (1024, 32): "vit_l_32"}


def network_of(tensors: dict[str, Tensor], file: dict[str, Any], heads_of: dict[int, int]) -> BackboneConfig | None:
    """The network of some weights, None where it cannot be told.

    Args:
        tensors: under the network's own names, heads among them.
        file: where they are from; MoCo's, SimSiam's and timm's say `arch`.
        heads_of: attention heads by width where they are other than is usual, 0 where that is not known.
    """
    if "patch_embed.proj.weight" in tensors and "blocks.0.attn.qkv.weight" in tensors:
        return _timm_vit(tensors, heads_of)
    if "conv_proj.weight" in tensors and "encoder.pos_embedding" in tensors:
        return _torchvision_vit(tensors)
    named = _named(file.get("arch"))
    if named and named.name in RESNETS.values():
        named = None  # the shapes tell its stem as well
    return named or _resnet(tensors)


def _resnet(tensors: dict[str, Tensor]) -> BackboneConfig | None:
    """A ResNet of torchvision's."""
    first, block = (tensors.get(name) for name in ("conv1.weight", "layer1.0.conv2.weight"))
    if first is None or block is None or first.ndim != 4 or len(first) != 64 or first.shape[-1] not in (3, 7):
        return None
    blocks = tuple(_count(tensors, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
    name = RESNETS.get((blocks, tuple(block.shape[:2]), "layer1.0.conv3.weight" in tensors))
    if name is None:
        return None
    return BackboneConfig(name, in_channels=first.shape[1], small_images=first.shape[-1] == 3)


def _timm_vit(tensors: dict[str, Tensor], heads_of: dict[int, int]) -> BackboneConfig | None:
    """A plain ViT under timm's names, which the authors of DINO, MAE and MoCo v3 use too."""
    kernel, positions = tensors["patch_embed.proj.weight"], tensors.get("pos_embed")
    if kernel.ndim != 4:  # patches of video
        return None
    D, C, patch, _ = kernel.shape
    known = VITS.get((D, _count(tensors, r"blocks\.(\d+)\.")))
    if known is None or positions is None:
        return None
    name, heads, usual_patch, usual_side = known
    side = patch * math.isqrt(positions.shape[1] - ("cls_token" in tensors))
    own_heads = heads_of.get(D, heads)
    if not own_heads:
        return None
    options: dict[str, Any] = {}
    if own_heads != heads:
        options["num_heads"] = own_heads
    if patch != usual_patch:
        options["patch_size"] = patch
    if side != usual_side:
        options["img_size"] = side
    if "blocks.0.ls1.gamma" in tensors:
        options["init_values"] = 1e-5  # any number: the layer is there, its weights are the file's
    if "fc_norm.weight" in tensors:
        options["global_pool"] = "avg"
    return BackboneConfig(name, in_channels=C, options=options)


def _torchvision_vit(tensors: dict[str, Tensor]) -> BackboneConfig | None:
    kernel = tensors["conv_proj.weight"]
    if kernel.ndim != 4:
        return None
    D, _, patch, _ = kernel.shape
    name = TORCHVISION_VITS.get((D, patch))
    side = patch * math.isqrt(tensors["encoder.pos_embedding"].shape[1] - 1)
    return None if name is None else BackboneConfig(name, options={} if side == 224 else {"image_size": side})


def _named(arch: Any) -> BackboneConfig | None:
    """A network by the name that the file gives."""
    if not isinstance(arch, str):
        return None
    if arch in torchvision.models.list_models(module=torchvision.models):
        return BackboneConfig(arch)
    import timm  # a second of import time

    return BackboneConfig(f"timm/{arch}") if timm.is_model(arch) else None


def _count(tensors: dict[str, Tensor], pattern: str) -> int:
    """How many numbers the names have in the place of the pattern's group."""
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})
