"""RandAugment, batched: all images that drew the same operation are changed together.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", NeurIPS 2020,
arXiv:1909.13719. Operations, strengths and kernels are torchvision's (31 bins, bilinear, black where nothing is known);
as every image has the same strength, a batch falls into as many groups as there are operations and signs.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

Operation = Callable[[Tensor, float], Tensor]
"""Maps [B, C, H, W] uint8, and a strength from 0 to 1 with the sign that was drawn."""

STRONGEST = 30  # a strength of 1
_affine = partial(F.affine, angle=0.0, scale=1.0, interpolation=InterpolationMode.BILINEAR)


def _shear(images: Tensor, strength: float, axis: int) -> Tensor:
    angles = [0.0, 0.0]
    angles[axis] = math.degrees(math.atan(0.3 * strength))
    return _affine(images, translate=[0, 0], shear=angles, center=[0, 0])


def _translate(images: Tensor, strength: float, axis: int) -> Tensor:
    pixels = [0.0, 0.0]
    pixels[axis] = int(strength * 150 / 331 * images.shape[3 - axis])
    return _affine(images, translate=pixels, shear=[0.0, 0.0])


def _rotate(images: Tensor, strength: float) -> Tensor:
    return F.rotate(images, 30 * strength, InterpolationMode.BILINEAR)


_SIGNED: dict[str, Operation] = {
    "ShearX": partial(_shear, axis=0),
    "ShearY": partial(_shear, axis=1),
    "TranslateX": partial(_translate, axis=0),
    "TranslateY": partial(_translate, axis=1),
    "Rotate": _rotate,
    "Brightness": lambda images, strength: F.adjust_brightness(images, 1 + 0.9 * strength),
    "Color": lambda images, strength: F.adjust_saturation(images, 1 + 0.9 * strength),
    "Contrast": lambda images, strength: F.adjust_contrast(images, 1 + 0.9 * strength),
    "Sharpness": lambda images, strength: F.adjust_sharpness(images, 1 + 0.9 * strength),
}
_UNSIGNED: dict[str, Operation] = {
    "Identity": lambda images, strength: images,
    "Posterize": lambda images, strength: F.posterize(images, 8 - round(4 * strength)),
    "Solarize": lambda images, strength: F.solarize(images, 255 * (1 - strength)),
    "AutoContrast": lambda images, strength: F.autocontrast(images),
    "Equalize": lambda images, strength: F.equalize(images),
}
OPERATIONS: list[tuple[str, Operation, int]] = [
    (name, operation, sign)
    for kinds, signs in ((_SIGNED, (1, -1)), (_UNSIGNED, (1, 1)))  # an operation without a sign has as many chances
    for name, operation in kinds.items()
    for sign in signs
]
"""Name, function and sign; each is drawn as often."""


def rand_augment(views: Tensor, operations: list[tuple[Tensor, list[int]]], magnitude: int) -> Tensor:
    """Changes every view by the operations that were drawn for it.

    Args:
        views: [B, C, H, W] float in [0, 1], C 1 or 3.
        operations: see `ViewDraws.operations`.
        magnitude: strength, from 0 to 30.

    Returns:
        [B, C, H, W] float in [0, 1], of whole 255ths, as these operations are defined on 8 bits.
    """
    images = (views * 255).round_().to(torch.uint8)
    for rows, sizes in operations:
        for (_, operation, sign), group in zip(OPERATIONS, rows.split(sizes), strict=True):
            if len(group):
                images.index_copy_(0, group, operation(images.index_select(0, group), sign * magnitude / STRONGEST))
    return images.to(views.dtype).div_(255)
