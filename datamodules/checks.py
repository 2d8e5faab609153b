"""What a data module is checked for: its arguments before its images are looked at, and what its sources give."""

from typing import Any

import torch
from torch import Tensor

from datamodules.errors import UserError


def check_arguments(data: Any) -> None:
    """Refuses sizes below 1, less than no workers, and a normalisation of another number of channels.

    Called by `setup` and not by the constructor, where the command line's parser would bury the sentence in its own.

    Args:
        data: an `ImageDataModule`.

    Raises:
        UserError: naming the argument.
    """
    for name in ("image_size", "batch_size", "eval_batch_size"):
        if getattr(data, name) < 1:
            raise UserError(f"data.{name} is {getattr(data, name)}; it must be at least 1.")
    if data.num_workers is not None and data.num_workers < 0:
        raise UserError(f"data.num_workers is {data.num_workers}; it must be at least 0, or null for a choice.")
    for name in ("mean", "std"):
        if len(getattr(data, name)) != data.num_channels:
            raise UserError(
                f"data.{name} is {getattr(data, name)}, but the images have {data.num_channels} channel(s): give one "
                "number for each."
            )


def check_labels(labels: Any, title: str) -> None:
    """Refuses labels that are not one class number an image.

    Args:
        labels: what should be [N] int64.
        title: what to call them.

    Raises:
        UserError: they are of another kind.
    """
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.dtype != torch.int64:
        raise UserError(
            f"The {title} are {_kind(labels)}; allowed is a tensor [N] of int64, one class an image, -1 where unknown: "
            "convert other whole numbers with .long(), and give -1 to images of several classes."
        )


def check_image(image: Any, name: str, channels: int | None = None, masked: bool = False) -> None:
    """Refuses what is no image of whole intensities, as a cast would make black of intensities in [0, 1].

    Args:
        image: what should be [C, H, W] uint8.
        name: what to call it.
        channels: how many it should have, without a mask; None for any number.
        masked: whether its last channel is a mask.

    Raises:
        UserError: it is of another kind, or has other channels.
    """
    if not isinstance(image, Tensor) or image.ndim != 3 or image.dtype != torch.uint8:
        raise UserError(
            f"{name} is {_kind(image)}; allowed is a tensor [C, H, W] of uint8, 0 to 255: convert it in the source, "
            "intensities in [0, 1] with .mul(255).round().to(torch.uint8)."
        )
    found = len(image) - masked
    if channels is not None and found != channels:
        raise UserError(
            f"{name} has {found} channel(s), it is {list(image[:found].shape)}, but num_channels of the data module is "
            f"{channels}: set num_channels, default_mean and default_std in its class to what the images have."
        )


def _kind(value: Any) -> str:
    """Type and sizes in a few words."""
    if not isinstance(value, Tensor):
        return f"of type {type(value).__name__}"
    return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
