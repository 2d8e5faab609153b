"""Every random number of the augmentation, drawn on the host as a function of (seed, epoch, image, view).

Drawing for the whole batch before any pixel is touched has three uses: the views do not depend on the device, on the
number of ranks or on the other images of the batch; nothing later waits for the device to learn what was drawn; and as
the rows that need an operation are known, no work is done for the others.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.augment.rand_augment import OPERATIONS
from datamodules.augment.spec import ViewSpec
from datamodules.randomness import uniform

_CROP_TRIES = 10  # torchvision's RandomResizedCrop
_STREAM = 0x56494557  # "VIEW": keeps these numbers apart from other uses of randomness for the same image

# Columns of a view's uniform numbers. Every operation has its own, so that switching one off leaves the others alone.
_AREA, _RATIO = slice(0, _CROP_TRIES), slice(_CROP_TRIES, 2 * _CROP_TRIES)
_TOP, _LEFT, _FLIP, _ANGLE = range(20, 24)
_JITTER, _ORDER, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(24, 30)
_GRAYSCALE, _BLUR, _SIGMA, _SOLARIZE = range(30, 34)
_NUMBERS = 34
# Those of the background removal are behind, from a stream of their own: a recipe without it does not draw them, and
# one with it draws everything else alike.
_REMOVAL_STREAM = 0x4D41534B  # "MASK"
_REMOVAL, _FILL = 34, slice(35, 38)
_REMOVAL_NUMBERS = 4
_RAND_STREAM = 0x52414E44  # "RAND", for RandAugment's, which come last

_ORDERS = np.array(list(itertools.permutations(range(4))))  # [24, 4], of brightness 0, contrast 1, saturation 2, hue 3
_HUE_OPERATION = 3


class ViewDraws(NamedTuple):
    """What was drawn for one view of B images. Rows are positions in the batch, int64.

    Attributes:
        box: [B, 4] int64, crop as (top, left, height, width) in pixels; None where the workers took the crops.
        flip: [B] bool.
        angle: [B] float32, degrees counter-clockwise.
        removal: rows whose background is removed.
        fill: [len(removal), C] float32, intensities that the background of these rows takes.
        operations: for each operation of RandAugment in turn, the rows [B] in the order of `rand_augment.OPERATIONS`,
            and how many rows each of those has.
        blends: [B, 3, 3] float32, brightness, contrast and saturation in the order drawn for the image, each as the
            coefficients that `photometry.blend` takes.
        hue: [B] float32, shift in turns; None where the recipe or the images have none.
        hue_after: rows with jitter, in four groups: the hue is shifted after 0, 1, 2, 3 of the blends.
        grayscale: rows turned gray.
        blur: rows blurred.
        sigma: [B] float32, of the blur, in pixels.
        solarize: rows solarised.
    """

    box: Tensor | None
    flip: Tensor
    angle: Tensor
    removal: Tensor
    fill: Tensor
    operations: list[tuple[Tensor, list[int]]]
    blends: Tensor
    hue: Tensor | None
    hue_after: list[Tensor]
    grayscale: Tensor
    blur: Tensor
    sigma: Tensor
    solarize: Tensor


Draws = list[ViewDraws]
"""One entry a view. A tree of tensors: Lightning moves it to the device with the batch."""


def view_numbers(views: Sequence[ViewSpec], seed: int, epoch: int, index: Tensor) -> np.ndarray:
    """[V, B, numbers] float32: the uniform numbers behind each view of the images `index` ([B] int64, on the CPU)."""

    def draw(stream: int, count: int) -> np.ndarray:
        numbers = uniform(seed, epoch, index, stream, len(views) * count).numpy()
        return numbers.reshape(len(index), len(views), count).swapaxes(0, 1)

    numbers = draw(_STREAM, _NUMBERS)
    if any(spec.background_removal for spec in views):
        numbers = np.concatenate((numbers, draw(_REMOVAL_STREAM, _REMOVAL_NUMBERS)), axis=2)
    if layers := max((spec.rand_augment for spec in views), default=0):
        numbers = np.concatenate((numbers, draw(_RAND_STREAM, layers)), axis=2)
    return numbers


def region_box(region: tuple[float, float, float, float], image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A part of an image in whole pixels, at least one each way.

    Args:
        region: top, left, bottom and right as fractions, see `ViewSpec.region`.
        image_size: height and width of the image, in pixels.

    Returns:
        Top, left, height, width, in pixels.
    """

    def span(start: float, stop: float, pixels: int) -> tuple[int, int]:
        first = min(round(start * pixels), pixels - 1)
        return first, max(round(stop * pixels) - first, 1)

    top, height = span(region[0], region[2], image_size[0])
    left, width = span(region[1], region[3], image_size[1])
    return top, left, height, width


def draw_box(spec: ViewSpec, numbers: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """The crops of one view, with the distribution of torchvision's RandomResizedCrop of the view's region.

    Up to ten areas and aspect ratios are tried; where none fits, the largest central crop of an allowed ratio is taken.

    Args:
        spec: region, area and ratio of the crop.
        numbers: [B, numbers] of `view_numbers`.
        image_size: height and width of the images, in pixels.

    Returns:
        [B, 4] int64: top, left, height, width, in pixels.
    """
    region_top, region_left, region_height, region_width = region_box(spec.region, image_size)
    low, high = spec.crop_scale
    area = region_height * region_width * (low + (high - low) * numbers[:, _AREA].astype(np.float64))  # [B, tries]
    low, high = math.log(spec.crop_ratio[0]), math.log(spec.crop_ratio[1])
    ratio = np.exp(low + (high - low) * numbers[:, _RATIO].astype(np.float64))
    widths, heights = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (widths > 0) & (widths <= region_width) & (heights > 0) & (heights <= region_height)
    first = np.arange(len(numbers)), fits.argmax(axis=1)

    ratio = min(max(region_width / region_height, spec.crop_ratio[0]), spec.crop_ratio[1])
    central = min(region_height, round(region_width / ratio)), min(region_width, round(region_height * ratio))
    found = fits.any(axis=1)
    height = np.where(found, heights[first], central[0]).astype(np.int64)
    width = np.where(found, widths[first], central[1]).astype(np.int64)
    top = np.where(found, numbers[:, _TOP] * (region_height - height + 1), (region_height - height) // 2)
    left = np.where(found, numbers[:, _LEFT] * (region_width - width + 1), (region_width - width) // 2)
    corner = region_top + top.astype(np.int64), region_left + left.astype(np.int64)
    return np.stack((*corner, height, width), axis=1)


def draw_flip(spec: ViewSpec, numbers: np.ndarray) -> np.ndarray:
    """[B] bool: which images are flipped in this view."""
    return numbers[:, _FLIP] < spec.flip


def draw_view(
    spec: ViewSpec, numbers: np.ndarray, mean: Sequence[float], image_size: tuple[int, int] | None
) -> ViewDraws:
    """All that is random about one view of B images.

    Args:
        spec: the view's specification.
        numbers: [B, numbers] of `view_numbers`.
        mean: of each colour channel, on intensities in [0, 1]; without three channels there is no hue, saturation or
            grayscale.
        image_size: height and width in pixels, where crops are wanted.
    """
    coloured = len(mean) == 3
    jittered = numbers[:, _JITTER] < spec.jitter
    order = _ORDERS[(numbers[:, _ORDER] * len(_ORDERS)).astype(np.int64)]  # [B, 4]
    hue = coloured and spec.hue > 0
    hue_after = order.argsort(axis=1)[:, _HUE_OPERATION] if hue else np.full(len(order), 3)
    low, high = spec.blur_sigma
    removal, fill = _removal(spec, numbers, mean)
    return ViewDraws(
        box=torch.from_numpy(draw_box(spec, numbers, image_size)) if image_size else None,
        flip=torch.from_numpy(draw_flip(spec, numbers)),
        angle=torch.from_numpy(spec.rotation * (2 * numbers[:, _ANGLE] - 1)),
        removal=removal,
        fill=fill,
        operations=draw_operations(spec, numbers),
        blends=_blends(spec, numbers, order, coloured),
        hue=torch.from_numpy(spec.hue * (2 * numbers[:, _HUE] - 1)) if hue else None,
        hue_after=[_rows(jittered & (hue_after == blends)) for blends in range(4)],
        grayscale=_rows((numbers[:, _GRAYSCALE] < spec.grayscale) & coloured),
        blur=_rows(numbers[:, _BLUR] < spec.blur),
        sigma=torch.from_numpy(low + (high - low) * numbers[:, _SIGMA]),
        solarize=_rows(numbers[:, _SOLARIZE] < spec.solarize),
    )


def draw_operations(spec: ViewSpec, numbers: np.ndarray) -> list[tuple[Tensor, list[int]]]:
    """The operations of RandAugment for one view, each of `rand_augment.OPERATIONS` as likely; see `ViewDraws`."""
    layers = numbers[:, numbers.shape[1] - spec.rand_augment :]
    drawn = (layers * len(OPERATIONS)).astype(np.int64)
    return [
        (torch.from_numpy(column.argsort(kind="stable")), np.bincount(column, minlength=len(OPERATIONS)).tolist())
        for column in drawn.T
    ]


def _removal(spec: ViewSpec, numbers: np.ndarray, mean: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The rows whose background is removed, and what it becomes in each [rows, C]."""
    if not spec.background_removal:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, len(mean))
    rows = _rows(numbers[:, _REMOVAL] < spec.background_removal)
    if spec.background == "random":
        # three numbers an image: channels beyond the third, as in spectral images, take them again
        return rows, torch.from_numpy(numbers[:, _FILL])[rows][:, torch.arange(len(mean)) % 3]
    fill = {"mean": mean, "gray": [0.5] * len(mean), "black": [0.0] * len(mean)}[spec.background]
    return rows, torch.tensor(fill, dtype=torch.float32).repeat(len(rows), 1)


def _blends(spec: ViewSpec, numbers: np.ndarray, order: np.ndarray, coloured: bool) -> Tensor:
    """[B, 3, 3]: brightness, contrast and saturation in the order drawn, as coefficients (see `ViewDraws.blends`)."""
    strength = np.array([spec.brightness, spec.contrast, spec.saturation if coloured else 0.0], dtype=np.float32)
    low = np.maximum(1 - strength, 0)
    factor = low + (1 + strength - low) * numbers[:, [_BRIGHTNESS, _CONTRAST, _SATURATION]]  # [B, 3]
    blends = np.zeros((len(numbers), 3, 3), dtype=np.float32)
    blends[:, :, 0] = factor
    blends[:, 1, 2] = 1 - factor[:, 1]  # contrast blends with the mean of the gray version
    blends[:, 2, 1] = 1 - factor[:, 2]  # saturation with the gray version itself
    without_hue = order[order != _HUE_OPERATION].reshape(-1, 3, 1)
    return torch.from_numpy(np.take_along_axis(blends, without_hue, axis=1))


def _rows(chosen: np.ndarray) -> Tensor:
    """The positions at which `chosen` [B] is true."""
    return torch.from_numpy(np.flatnonzero(chosen))
