"""Crop, resize, flip and rotation: batched with a box for each image, or for the single image of a worker.

Interpolation is separable and linear in the pixels, so crop, antialiased resize and flip of an image are two small
matrices, one from the left for its rows and one from the right for its columns. To build them for a whole batch and
multiply is exact, takes any number of channels, and is faster than to resize differing crops one by one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_resize(images: Tensor, box: Tensor, flip: Tensor, interpolation: str, out: Tensor) -> None:
    """Crops, resizes and flips each image by a box of its own.

    Equals torchvision's `resized_crop(antialias=True)`, clamped, and `hflip`.

    Args:
        images: [B, C, H, W] uint8.
        box: [B, 4] int64, top, left, height, width in pixels.
        flip: [B] bool, left-right.
        interpolation: `bilinear` or `bicubic`.
        out: [B, C, size, size] float32, receives the crops, with intensities in [0, 1].
    """
    B, C, H, W = images.shape
    size = out.shape[3]
    top, left, height, width = box.unbind(1)
    rows = resize_matrix(top, height, torch.zeros_like(flip), H, size, interpolation)  # [B, size, H]
    columns = resize_matrix(left, width, flip, W, size, interpolation)  # [B, size, W]
    narrow = torch.bmm(images.flatten(1, 2).float(), columns.transpose(1, 2))  # [B, C * H, size]
    torch.matmul(rows[:, None], narrow.view(B, C, H, size), out=out)
    out.div_(255)
    if interpolation == "bicubic":
        out.clamp_(0, 1)  # a cubic overshoots at edges


def resize_matrix(
    start: Tensor, length: Tensor, flip: Tensor, in_size: int, out_size: int, interpolation: str
) -> Tensor:
    """The antialiased resize of a window of an axis, as a matrix.

    The filter (a triangle, or Keys' cubic with a = -1/2) is stretched by the scale where the window shrinks; weights
    outside the window are dropped and the rest sums to one.

    Args:
        start: [B] first pixel of the window.
        length: [B] pixels of the window.
        flip: [B] bool, reverse the axis.
        in_size: pixels of the axis before.
        out_size: pixels of the axis after.
        interpolation: `bilinear` or `bicubic`.

    Returns:
        [B, out_size, in_size] float32; each row sums to one.
    """
    scale = (length / out_size)[:, None]
    stretch = scale.clamp(min=1)  # of the filter
    out = torch.arange(out_size, device=start.device) + 0.5
    out = torch.where(flip[:, None], out_size - out, out)  # [B, out_size]
    centre = scale * out / stretch  # also counted from the window
    pixel = torch.arange(in_size, device=start.device) - start[:, None]  # [B, in_size], counted from the window
    inside = torch.minimum(pixel + 1, length[:, None] - pixel).clamp_(0, 1)
    distance = ((pixel + 0.5) / stretch)[:, None].sub(centre[:, :, None]).abs_()  # [B, out_size, in_size]
    weight = _cubic(distance) if interpolation == "bicubic" else distance.neg_().add_(1).clamp_(min=0)
    weight *= inside[:, None]
    return weight.div_(weight.sum(dim=2, keepdim=True))


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -1/2 at a non-negative distance in pixels (IEEE TASSP 1981, eq. 15).

    With p = max(1 - x, 0) and q = max(2 - x, 0), its two pieces are the one expression q² (q - 1) / 2 + p² (1 - 2p).
    """
    q = (2 - distance).clamp_(min=0)
    p = q.sub(1).clamp_(min=0)
    return q.sub(1).mul_(q).mul_(q).mul_(0.5).add_(p.mul(-2).add_(1).mul_(p).mul_(p))


def rotate(views: Tensor, angle: Tensor) -> Tensor:
    """Rotates each view about its centre, bilinear, black where nothing is known; equals torchvision's `rotate`.

    Args:
        views: [B, C, s, s] float.
        angle: [B], degrees counter-clockwise.

    Returns:
        [B, C, s, s].
    """
    radians = torch.deg2rad(angle)
    cosine, sine, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    theta = torch.stack((cosine, -sine, zero, sine, cosine, zero), dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(views.shape), align_corners=False)
    return F.grid_sample(views, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def crop_resize_one(image: Tensor, box: list[int], flip: bool, size: int, interpolation: str) -> Tensor:
    """The same crop for one uint8 image [C, H, W]; returns uint8 [C, size, size]."""
    top, left, height, width = box
    window = image[None, :, top : top + height, left : left + width]
    window = window.contiguous(memory_format=torch.channels_last)  # without gaps: the resize then takes half the time
    view = F.interpolate(window, (size, size), mode=interpolation, antialias=True)[0]
    return view.flip(-1) if flip else view
