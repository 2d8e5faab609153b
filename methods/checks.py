"""What a run is checked for before its first step, and each batch of views."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from datamodules.errors import UserError
from datamodules.views import Views
from methods.backbones import channels_of, fixed_image_size

SMALL = 64  # pixels; every network that we know takes images of this side, but inception_v3


def check_run(module: LightningModule, backbone: Any, batch_norm: str) -> None:
    """Whether the images of the run's data module fit the network.

    Raises:
        UserError: they have another number of channels, or another size where the network takes only one.
    """
    data = getattr(module.trainer, "datamodule", None)
    channels, wanted = getattr(data, "num_channels", None), channels_of(backbone)
    if channels is not None and wanted is not None and channels != wanted:
        raise UserError(
            f"The images have {channels} channel(s), the backbone takes {wanted}: "
            f"set --model.backbone.in_channels {channels}."
        )
    side = only_side(backbone)
    others = sorted({spec.size for spec in getattr(data, "specs", [])} - {side}) if side else []
    if others:
        raise UserError(
            f"The backbone takes images of {side} pixels only, the views have {', '.join(map(str, others))}: set "
            f"--data.image_size {side}, or build a ViT of timm's for them, as with --model.backbone.options "
            f"'{{img_size: {others[-1]}, patch_size: 4}}' (dynamic_img_size: true for several sizes)."
        )
    if side is None and channels is not None:
        check_smallest(backbone, channels, min((spec.size for spec in getattr(data, "specs", [])), default=SMALL))
    if module.trainer.world_size == 1 and batch_norm == "shuffle":
        rank_zero_warn(
            "batch_norm: shuffle mixes the images of several ranks, and there is one, whose statistics are the same in "
            "any order. --model.batch_norm split:8 does on one device what eight with shuffling do."
        )


@torch.no_grad()
def check_smallest(backbone: nn.Module, channels: int, side: int) -> None:
    """Tries the network on black images, where they are so small that its layers may leave nothing of them.

    Args:
        backbone: the network; neither its modes nor its statistics change.
        channels: of the images.
        side: of the smallest views, in pixels.

    Raises:
        UserError: it fails on them.
    """
    if side >= SMALL:
        return
    modes = {part: part.training for part in backbone.modules()}
    like = next(backbone.parameters(), torch.zeros(1))
    try:
        backbone.eval()(like.new_zeros(2, channels, side, side))
    except RuntimeError as error:
        raise UserError(
            f"The backbone does not take images of {side} pixels ({str(error).splitlines()[0]}): set a larger "
            "--data.image_size (and larger sizes in data.views, where they are spelled out)."
        ) from error
    finally:
        for part, mode in modes.items():
            part.training = mode


def only_side(backbone: nn.Module) -> int | None:
    """The side in pixels that a network is made for, None where it takes any."""
    if not fixed_image_size(backbone):
        return None
    side = getattr(getattr(backbone, "patch_embed", backbone), "img_size", None) or getattr(backbone, "image_size", 0)
    return side[0] if isinstance(side, tuple) else side


def check_views(batch: Views, method: type, num_global_views: int | None, takes_local_views: bool) -> None:
    """Whether a method can use all views of a batch.

    Raises:
        UserError: another number of global views than it takes, or local ones that it would throw away.
    """
    if num_global_views not in (None, len(batch.global_views)):
        raise UserError(
            f"{method.__name__} takes {num_global_views} global views of an image, the recipe makes "
            f"{len(batch.global_views)}: choose another data.views, or leave it out for the method's own."
        )
    if batch.local_views and not takes_local_views:
        raise UserError(
            f"{method.__name__} takes no local views, the recipe makes {len(batch.local_views)}: choose another "
            "data.views, or leave it out for the method's own."
        )
