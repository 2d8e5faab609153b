"""The view of evaluation, for a batch on the device or for one image in a worker."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from datamodules.augment.photometry import Normalize
from datamodules.augment.recipes import SMALL_IMAGE


class CleanView:
    """The one view of evaluation: resized, cropped from the centre, normalised; nothing is random.

    The shorter side becomes `size` · 256 / 224 before the crop, as is usual on ImageNet; up to 64 pixels it becomes
    `size`, as small images show their object whole.

    Args:
        size: side of the view, in pixels.
        mean: mean of each colour channel, on intensities in [0, 1]. A channel more, the mask of a training image, is
            dropped.
        std: standard deviation of each colour channel.

    Raises:
        UserError: `mean` and `std` do not fit together.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size = size
        self.shorter_side = size if size <= SMALL_IMAGE else round(size * 256 / 224)
        self.normalize = Normalize(mean, std)

    def __call__(self, images: Tensor) -> Tensor:
        """Views of a batch of images of one size; those of the view's own size are only normalised.

        Args:
            images: [B, C, H, W] uint8.

        Returns:
            [B, C, size, size] float32, normalised.
        """
        fitted = self._fit(images[:, : len(self.normalize.mean)].float())
        views = fitted.clamp_(0, 255).div_(255)  # the cubic overshoots at edges
        self.normalize(views)
        return views

    def crop(self, image: Tensor) -> Tensor:
        """The worker's part: one image [C, H, W] uint8 of any size to [C, size, size] uint8, for `__call__`."""
        return self._fit(image[None, : len(self.normalize.mean)])[0]

    def _fit(self, images: Tensor) -> Tensor:
        """Resizes and crops [B, C, H, W], uint8 or float, to [B, C, size, size]."""
        height, width = images.shape[2:]
        if (height, width) == (self.size, self.size):
            return images
        shorter = min(height, width)
        height, width = self.shorter_side * height // shorter, self.shorter_side * width // shorter
        images = F.interpolate(images, (height, width), mode="bicubic", antialias=True)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return images[:, :, top : top + self.size, left : left + self.size]
