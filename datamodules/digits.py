"""Handwritten digits scattered on a canvas: a data set for first runs and tests, with nothing to download."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.sources import ArraySource, Source, Subset, hold_out

_SCALE = (1.2, 2.2)  # side of a glyph on the canvas, in units of its original 8 pixels
_ROTATION = 20.0  # degrees either way


class Digits(ImageDataModule):
    """1,797 handwritten digits, ten classes, one channel.

    These are scikit-learn's 8x8 digits (the test part of the UCI "Optical Recognition of Handwritten Digits" set). So
    small and centred they say nothing about representations, as their raw pixels already classify to 98 %; so each is
    enlarged, turned and placed somewhere on a black canvas, once, with a fixed seed: pixels then reach about 47 %
    (weighted cosine kNN, k = 20). A fifth of each class is held out for validation. It is a toy, good to see in a
    minute whether something learns; accuracies on it do not rank methods.
    """

    num_channels = 1
    default_image_size = 28
    default_mean = (0.0767,)
    default_std = (0.2190,)

    def __init__(self, canvas_size: int = 28, **base) -> None:
        """
        Args:
            canvas_size: side of the canvas in pixels, at least 18 (the largest glyph). Larger is harder.
            **base: see `ImageDataModule`.
        """
        super().__init__(**base)
        self.canvas_size = canvas_size

    def sources(self) -> tuple[Source, Source]:
        """Training and validation digits."""
        from sklearn.datasets import load_digits  # slow to import

        pixels, labels = load_digits(return_X_y=True)
        glyphs = torch.from_numpy(pixels).float().div(16).view(-1, 1, 8, 8)
        images = scatter(glyphs, self.canvas_size)
        whole = ArraySource(images, torch.from_numpy(labels).long(), list("0123456789"), "digits")
        train, val = hold_out(whole.labels, fraction=0.2)
        return Subset(whole, train), Subset(whole, val)


def scatter(glyphs: Tensor, canvas_size: int) -> Tensor:
    """Each glyph at a size, angle and place of its own on a black canvas, always the same.

    Args:
        glyphs: [N, C, h, w] float in [0, 1].
        canvas_size: side of the canvas in pixels.

    Returns:
        [N, C, canvas_size, canvas_size] uint8.
    """
    N, C, side, _ = glyphs.shape
    scale, angle, *place = torch.rand(4, N, generator=torch.Generator().manual_seed(0))
    scale = _SCALE[0] + (_SCALE[1] - _SCALE[0]) * scale
    angle = math.radians(_ROTATION) * (2 * angle - 1)
    free = 1 - scale * side / canvas_size  # how far the centre may move before the upright glyph leaves, half canvases
    x, y = [free.clamp(min=0) * (2 * p - 1) for p in place]
    zoom = canvas_size / (scale * side)  # canvas coordinates to glyph coordinates
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    theta = torch.stack((cos, -sin, -cos * x + sin * y, sin, cos, -sin * x - cos * y), dim=1).view(N, 2, 3)
    grid = F.affine_grid(theta, [N, C, canvas_size, canvas_size], align_corners=False)
    canvas = F.grid_sample(glyphs, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    return canvas.clamp(0, 1).mul(255).round().to(torch.uint8)
