"""The golden file of DINO, which also holds names, and its tiny vision transformer."""

import numpy as np
from torch import Tensor

from methods.backbones import BackboneConfig
from tests.support.golden import GOLDENS, load


def numbers(prefix: str = "") -> dict[str, Tensor]:
    """The arrays of numbers under a prefix, which is left out of their names."""
    return {name.removeprefix(prefix): array for name, array in load("dino").items() if name.startswith(prefix)}


def names(key: str) -> list[str]:
    """An array of names."""
    with np.load(GOLDENS / "dino.npz") as arrays:
        return arrays[key].tolist()


def tiny_vit() -> BackboneConfig:
    """The golden's architecture."""
    size, patch, dim, depth, heads = numbers()["vit/hyper_img_patch_dim_depth_heads"].tolist()
    options = {"img_size": size, "patch_size": patch, "embed_dim": dim, "depth": depth, "num_heads": heads}
    return BackboneConfig("timm/vit_tiny_patch16_224", options=options | {"dynamic_img_size": True})
