"""What a view is: the parameters of one line of a recipe, as data."""

from dataclasses import dataclass
from typing import Literal

from datamodules.errors import UserError

_PROBABILITIES = ("flip", "background_removal", "jitter", "grayscale", "blur", "solarize")
_STRENGTHS = ("brightness", "contrast", "saturation", "hue", "rotation")
_RANGES = ("crop_scale", "crop_ratio", "blur_sigma")


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """How `count` views of an image are drawn.

    The operations run in the order of the fields: random resized crop, flip, rotation, background removal,
    RandAugment, colour jitter, grayscale, blur, solarisation. Strengths and probabilities mean what they mean in
    torchvision's transforms of the same name. The normalisation's mean and standard deviation belong to the data set,
    not to a view.

    Raises:
        UserError: a value is out of its range.
    """

    size: int
    """Side of the square view, in pixels."""

    count: int = 1
    """Views drawn by this specification, each independently."""

    role: Literal["global", "local"] = "global"
    """`global` views carry the image, `local` ones are the small crops of multi-crop methods."""

    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """Part of the image that the crop stays within: its top, left, bottom and right, from 0 to 1."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the crop as a fraction of the image, or of the region, from and to."""

    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the crop before it is resized to a square, from and to, log-uniform."""

    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """Filter of the antialiased resize."""

    flip: float = 0.5
    """Probability of a left-right flip."""

    rotation: float = 0.0
    """Rotation in degrees, uniform between minus and plus this angle; uncovered corners are black."""

    background_removal: float = 0.0
    """Probability that all but the foreground is painted over; above 0, the images need a mask as a further channel."""

    background: Literal["mean", "gray", "black", "random"] = "mean"
    """What removed background becomes: the data set's mean (0 once normalised), mid-gray, black, or a uniform colour
    drawn for each image. The colour operations that follow treat it as a part of the view."""

    rand_augment: int = 0
    """Operations of RandAugment, drawn one after the other; 0 for none."""

    rand_magnitude: int = 9
    """Strength of these operations, from 0 to 30."""

    jitter: float = 0.0
    """Probability of the colour jitter; its four operations run in an order drawn for each image."""

    brightness: float = 0.0
    """Brightness factor, uniform in 1 ± this, not below 0."""

    contrast: float = 0.0
    """Contrast factor, uniform in 1 ± this, not below 0."""

    saturation: float = 0.0
    """Saturation factor, uniform in 1 ± this, not below 0."""

    hue: float = 0.0
    """Hue shift in turns of the colour circle, uniform in ± this, at most 0.5."""

    grayscale: float = 0.0
    """Probability of grayscale."""

    blur: float = 0.0
    """Probability of a Gaussian blur."""

    blur_kernel: int = 0
    """Kernel size of the blur in pixels, odd; 0 means a tenth of the view's side, made odd, at least 3."""

    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur in pixels, from and to."""

    solarize: float = 0.0
    """Probability of solarisation: intensities from the threshold upwards are inverted."""

    solarize_threshold: float = 128 / 255
    """Threshold of the solarisation, on intensities in [0, 1]."""

    def __post_init__(self) -> None:
        for name in ("size", "count"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        for name in _PROBABILITIES:
            self._require(0 <= getattr(self, name) <= 1, name, "a probability, from 0 to 1")
        for name in _STRENGTHS:
            self._require(getattr(self, name) >= 0, name, "0 or more")
        for name in _RANGES:
            low, high = getattr(self, name)
            self._require(0 < low <= high, name, "two numbers above 0, the smaller first")
        top, left, bottom, right = self.region
        inside = 0 <= top < bottom <= 1 and 0 <= left < right <= 1
        self._require(inside, "region", "top, left, bottom and right, from 0 to 1, top above bottom, left before right")
        self._require(self.crop_scale[1] <= 1, "crop_scale", "at most 1, the whole image")
        self._require(self.hue <= 0.5, "hue", "at most 0.5, half a turn of the colour circle")
        self._require(self.rand_augment >= 0, "rand_augment", "0 operations or more")
        self._require(0 <= self.rand_magnitude <= 30, "rand_magnitude", "0 to 30")
        self._require(0 <= self.solarize_threshold <= 1, "solarize_threshold", "an intensity, from 0 to 1")
        self._require(self.role in ("global", "local"), "role", "global or local")
        fills = ("mean", "gray", "black", "random")
        self._require(self.background in fills, "background", f"one of {', '.join(fills)}")
        self._require(self.interpolation in ("bilinear", "bicubic"), "interpolation", "bilinear or bicubic")
        kernel_fits = self.blur_kernel == 0 or (self.blur_kernel % 2 == 1 and self.blur_kernel < 2 * self.size)
        self._require(kernel_fits, "blur_kernel", f"0, or odd and below twice the view's size ({2 * self.size})")

    @property
    def kernel(self) -> int:
        """Kernel size of the blur in pixels, with the default worked out (SimCLR: 23 at 224 pixels)."""
        return self.blur_kernel or max(3, self.size // 10 // 2 * 2 + 1)

    def _require(self, holds: bool, field: str, allowed: str) -> None:
        if not holds:
            raise UserError(
                f"A view's {field} is {getattr(self, field)}; allowed is: {allowed}. Change {field} in the recipe."
            )
