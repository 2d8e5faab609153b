"""A folder for the Hugging Face hub in timm's format, which timm reads from the disk as well."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.augment.clean import CleanView
from methods.backbones import fixed_image_size
from methods.pretrained import Pretrained
from scripts.exporting.images import side
from scripts.exporting.rebuild import config_in

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FILES = (CONFIG, WEIGHTS)


def write(pretrained: Pretrained, tensors: dict[str, Tensor], folder: Path) -> None:
    """Writes configuration and weights into a folder, which is made."""
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(configuration(pretrained), indent=2) + "\n")
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def configuration(pretrained: Pretrained) -> dict[str, Any]:
    """The folder's config.json; what is not known of the images is left to timm, which takes ImageNet's."""
    config, pixels = config_in("timm", pretrained), side(pretrained)
    fixed = fixed_image_size(pretrained.backbone)
    size = {"img_size": pixels} if fixed else {}
    prepared = {"input_size": [config.in_channels, pixels, pixels]} if pixels else {}
    return {
        "architecture": config.name.removeprefix("timm/").partition(".")[0],
        "num_classes": 0,
        "num_features": pretrained.backbone.feature_dim,
        "model_args": {"in_chans": config.in_channels, **config.options, **size},
        "pretrained_cfg": {"num_classes": 0, "fixed_input_size": fixed, **prepared, **_clean_view(pretrained)},
    }


def _clean_view(pretrained: Pretrained) -> dict[str, Any]:
    """How the images of evaluation were prepared, in timm's words; nothing where the file does not say."""
    images = pretrained.images or {}
    mean, std, pixels = images.get("mean"), images.get("std"), images.get("image_size")
    if not (mean and std and pixels):
        return {}
    share = pixels / CleanView(pixels, mean, std).shorter_side
    return {"mean": mean, "std": std, "crop_pct": share, "crop_mode": "center", "interpolation": "bicubic"}
