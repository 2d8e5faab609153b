"""Background removal, colour jitter, grayscale, blur and solarisation, batched with parameters for each image.

Images are [B, C, H, W] float32 in [0, 1]. Every function equals torchvision's functional of its name and returns new
images, unless it ends in an underscore. Comparisons, `where` and `fmod` are avoided where arithmetic says the same: on
a CPU they cost 5 to 50 times as much.
"""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, with torchvision's digits
_TO_GRAY = (0.0, 1.0, 0.0)


@functools.cache
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The numbers as a tensor that stays on the device: copying them there each time would make the host wait."""
    return torch.tensor(values, device=device)


class Normalize:
    """Subtracts the mean of each colour channel and divides by its standard deviation, in place.

    Args:
        mean: one number a channel, on intensities in [0, 1].
        std: likewise, above 0.

    Raises:
        UserError: `mean` and `std` do not fit together.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or min(std, default=0) <= 0:
            raise UserError(
                f"The normalisation has mean {list(mean)} and std {list(std)}; give both one number for each colour "
                "channel, those of std above 0."
            )
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, images: Tensor) -> None:
        """Normalises [B, C, H, W] with intensities in [0, 1]."""
        mean, std = (_constants(values, images.device)[:, None, None] for values in (self.mean, self.std))
        images.sub_(mean).div_(std)


def remove_background(views: Tensor, rows: Tensor, fill: Tensor) -> Tensor:
    """Takes the mask off the views, and paints over the background of some.

    Tomasev et al., "Pushing the limits of self-supervised ResNets: Can we outperform supervised learning without
    labels on ImageNet?" (ReLICv2), arXiv:2201.05119; the paper does not say what the background becomes.

    Args:
        views: [B, C + 1, H, W] in [0, 1], the last channel a mask, above 1/2 on the foreground. The resize has made
            its edge gray; the removal's is hard again.
        rows: [R] int64, the views whose background goes.
        fill: [R, C], what it becomes.

    Returns:
        [B, C, H, W].
    """
    images = views[:, :-1].contiguous()
    foreground = views[:, -1:].index_select(0, rows) > 0.5
    kept = torch.where(foreground, images.index_select(0, rows), fill[:, :, None, None])
    return images.index_copy_(0, rows, kept)


def jitter(images: Tensor, blends: Tensor, hue: Tensor | None, before_hue: int) -> Tensor:
    """Colour jitter in an order of each image's own, but for the hue, which comes at the same place for all.

    Args:
        images: [B, C, H, W].
        blends: [B, 3, 3], brightness, contrast and saturation in their order, each as coefficients for `blend`.
        hue: [B], for `shift_hue`; None leaves the hue alone.
        before_hue: how many of the blends precede the hue.

    Returns:
        [B, C, H, W].
    """
    for position in range(4):
        if position == before_hue and hue is not None:
            images = shift_hue(images, hue)
        if position < 3:
            images = blend(images, blends[:, position])
    return images


def grayscale(images: Tensor) -> Tensor:
    """Every channel becomes the gray version."""
    return blend(images, _constants(_TO_GRAY, images.device)[None])


def blend(images: Tensor, coefficients: Tensor) -> Tensor:
    """Brightness, contrast, saturation or grayscale, whichever the coefficients say, clamped to [0, 1].

    All four are a · image + b · gray(image) + c · mean(gray(image)): for a factor f, brightness has (a, b, c) =
    (f, 0, 0), contrast (f, 0, 1 - f), saturation (f, 1 - f, 0), and grayscale is a saturation of 0. So a batch in which
    every image is at another operation is still one product with a matrix for each image.

    Args:
        images: [B, C, H, W].
        coefficients: [B, 3] or [1, 3].

    Returns:
        [B, C, H, W].
    """
    B, C = images.shape[:2]
    pixels = images.flatten(2)
    weights = _constants(_LUMA if C == 3 else (1 / C,) * C, images.device)
    a, b, c = coefficients[:, :, None].unbind(1)  # each [B, 1]
    matrix = torch.diag_embed(a.expand(-1, C)) + b[:, :, None] * weights  # [B, C, C]
    offset = c * (pixels.mean(dim=2) @ weights)[:, None]
    blended = torch.baddbmm(offset[:, :, None], matrix.expand(B, -1, -1), pixels)
    return blended.clamp_(0, 1).view(images.shape)


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Moves the hue of colour images [B, 3, H, W] by shift [B], in turns of the colour circle.

    In HSV each channel is the value minus the chroma times a ramp of the hue, and only the hue changes. With a colour
    scaled so that its smallest channel is 0 and its largest 1, its hue is 1 + green + blue - red sixths of a turn away
    from red, to the side of the larger of green and blue: the textbook's six cases are one expression.
    """
    red, green, blue = images.split(1, dim=1)
    value = torch.maximum(red, green).clamp_(min=blue)
    low = torch.minimum(red, green).clamp_(max=blue)
    chroma = value - low
    hue = (green + blue).sub_(red).sub_(low).div_(chroma.clamp(min=1e-12)).add_(1)
    hue.copysign_(green - blue).add_(6 * shift[:, None, None, None])
    hue.sub_((hue / 6).floor_(), alpha=6)  # [0, 6)

    def ramp(corner: int) -> Tensor:
        return (hue - corner).abs_().sub_(1).clamp_(0, 1)

    shifted = torch.empty_like(images)
    new_red, new_green, new_blue = shifted.split(1, dim=1)
    torch.addcmul(low, chroma, ramp(3), out=new_red)
    torch.addcmul(value, chroma, ramp(2), value=-1, out=new_green)
    torch.addcmul(value, chroma, ramp(4), value=-1, out=new_blue)
    return shifted


def blur(images: Tensor, sigma: Tensor, kernel: int, widest: float) -> Tensor:
    """Gaussian blur with reflecting edges.

    Args:
        images: [B, C, H, W].
        sigma: [B] in pixels.
        kernel: taps, odd. Those beyond four times the widest sigma weigh less than a ten-thousandth and are left out.
        widest: the largest sigma that can occur, in pixels.

    Returns:
        [B, C, H, W].
    """
    radius = min(kernel // 2, math.ceil(4 * widest))
    tap = torch.arange(radius + 1, device=images.device)
    weight = torch.exp(-0.5 * (tap / sigma[:, None]).square())  # [B, radius + 1]
    weight = weight / (2 * weight.sum(dim=1, keepdim=True) - 1)  # the middle tap, exp(0) = 1, counts once
    padded = F.pad(images, [radius] * 4, mode="reflect")
    pitch = padded.shape[3]
    planes = _convolve(_convolve(padded.flatten(2), weight, step=pitch), weight, step=1)
    return planes.unfold(2, images.shape[3], pitch)  # drops the values at which a row ran over into the next


def _convolve(planes: Tensor, weight: Tensor, step: int) -> Tensor:
    """Convolves flattened planes with a symmetric kernel whose taps are `step` values apart.

    Long stretches of contiguous values make this several times faster on a CPU than slices of rows, and than `conv2d`.

    Args:
        planes: [B, C, N].
        weight: [B, radius + 1], from the middle tap outwards.
        step: distance of two taps in the flattened plane: 1 for a row, the length of a row for a column.

    Returns:
        [B, C, N - 2 · radius · step].
    """
    reach = (weight.shape[1] - 1) * step
    size = planes.shape[2] - 2 * reach
    middle, *others = weight[:, :, None, None].unbind(1)
    total = planes.narrow(2, reach, size) * middle
    pair = torch.empty_like(total)
    for offset, tap in zip(range(step, reach + 1, step), others, strict=True):
        torch.add(planes.narrow(2, reach - offset, size), planes.narrow(2, reach + offset, size), out=pair)
        total.addcmul_(pair, tap)
    return total


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Inverts the intensities from the threshold upwards."""
    return torch.where(images >= threshold, 1 - images, images)
