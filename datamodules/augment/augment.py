"""From uint8 images to normalised views, by either of two ways that share every draw.

Whole batch on the device, for sets of one small size::

    draws = augment.draw(epoch, index, image_size)        # on the host
    global_views, local_views = augment(images, draws)    # wherever the images are

Crops in the workers, for large images and images of many sizes::

    crops = augment.crop(image, epoch, index)                      # in a worker, for one image
    draws = augment.draw(epoch, indices)                           # on the host
    global_views, local_views = augment.finish(stacked, draws)     # wherever the stacked crops are
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from datamodules.augment import geometry, photometry
from datamodules.augment.draws import Draws, ViewDraws, draw_box, draw_flip, draw_view, view_numbers
from datamodules.augment.rand_augment import rand_augment
from datamodules.augment.spec import ViewSpec
from datamodules.errors import UserError

# Of pixels at once on a CPU: larger chunks fall out of the L2 cache, smaller ones cost more calls.
_CACHE_BYTES = 768 * 1024


class Augment:
    """Makes the views of a recipe.

    Args:
        specs: the recipe; a specification with `count` n stands for n views.
        mean: mean of each colour channel, on intensities in [0, 1]. One channel more is a foreground mask, 0 or 255:
            it follows the geometry where the recipe removes background, and no view keeps it.
        std: standard deviation of each colour channel.
        seed: seed of the run.

    Raises:
        UserError: `mean` and `std` do not fit together, or the recipe's operations not with the number of channels.
    """

    def __init__(self, specs: list[ViewSpec], mean: Sequence[float], std: Sequence[float], seed: int) -> None:
        self.views = [spec for spec in specs for _ in range(spec.count)]
        self.normalize = photometry.Normalize(mean, std)
        if len(mean) not in (1, 3) and any(spec.rand_augment for spec in specs):
            raise UserError(f"RandAugment is for gray and colour images; these have {len(mean)} channels: drop it.")
        self.seed = seed

    @property
    def removes_background(self) -> bool:
        """Whether images need a mask behind their colours."""
        return any(spec.background_removal for spec in self.views)

    def draw(self, epoch: int, index: Tensor, image_size: tuple[int, int] | None = None) -> Draws:
        """Draws all that is random about the views of a batch.

        Args:
            epoch: epoch, from 0.
            index: [B] int64, the images' positions in the data set, on the CPU.
            image_size: height and width in pixels, for `__call__`; None for `finish`.

        Returns:
            For each view, its draws, on the CPU.
        """
        numbers = view_numbers(self.views, self.seed, epoch, index)
        mean = self.normalize.mean
        return [draw_view(spec, row, mean, image_size) for spec, row in zip(self.views, numbers, strict=True)]

    def __call__(self, images: Tensor, draws: Draws) -> tuple[list[Tensor], list[Tensor]]:
        """The whole way, for a batch of images of one size.

        Args:
            images: [B, C, H, W] uint8, or [B, C + 1, H, W] with masks.
            draws: from `draw` with the height and width of the images; on their device.

        Returns:
            Global and local views, each [B, C, size, size] float32, normalised.
        """
        pairs = zip(self.views, draws, strict=True)
        return self._finish((_crops(self._needed(images, spec), spec, drawn) for spec, drawn in pairs), draws)

    def crop(self, image: Tensor, epoch: int, index: int) -> list[Tensor]:
        """The worker's part: the crops of one image.

        Args:
            image: [C, H, W] uint8, or [C + 1, H, W] with its mask.
            epoch: epoch, from 0.
            index: the image's position in the data set.

        Returns:
            For each view [C, size, size] uint8, and one channel more where the recipe removes background.
        """
        numbers = view_numbers(self.views, self.seed, epoch, torch.tensor([index]))  # [V, 1, numbers]
        image_size = image.shape[1], image.shape[2]
        crops = []
        for spec, row in zip(self.views, numbers, strict=True):
            box, flip = draw_box(spec, row, image_size)[0].tolist(), bool(draw_flip(spec, row)[0])
            needed = self._needed(image[None], spec)[0]
            crops.append(geometry.crop_resize_one(needed, box, flip, spec.size, spec.interpolation))
        return crops

    def finish(self, crops: list[Tensor], draws: Draws) -> tuple[list[Tensor], list[Tensor]]:
        """The device's part: all but crop and flip, for a batch of the workers' crops.

        Args:
            crops: for each view the stacked crops of `crop`, [B, C or C + 1, size, size] uint8.
            draws: from `draw`, on the device of the crops.

        Returns:
            As `__call__`.
        """
        planes = (crop.to(torch.float32, memory_format=torch.contiguous_format) for crop in crops)
        return self._finish((crop.div_(255) for crop in planes), draws)

    def _needed(self, images: Tensor, spec: ViewSpec) -> Tensor:
        """The channels of [B, C or C + 1, H, W] that a view is made of: the mask only if it can come into play."""
        channels = len(self.normalize.mean)
        needed = channels + (spec.background_removal > 0)
        assert images.shape[1] >= needed, (
            f"the images have {images.shape[1]} channels; {channels} colours "
            f"{'and a mask are' if needed > channels else 'are'} needed"
        )
        return images[:, :needed]

    def _finish(self, crops: Iterable[Tensor], draws: Draws) -> tuple[list[Tensor], list[Tensor]]:
        """Finishes crops with intensities in [0, 1], in place, and parts global from local views."""
        global_views: list[Tensor] = []
        local_views: list[Tensor] = []
        for spec, crop, drawn in zip(self.views, crops, draws, strict=True):
            view = geometry.rotate(crop, drawn.angle) if spec.rotation else crop
            if spec.background_removal:
                view = photometry.remove_background(view, drawn.removal, drawn.fill)
            if spec.rand_augment:
                view = rand_augment(view, drawn.operations, spec.rand_magnitude)
            self._colour(view, spec, drawn)
            (global_views if spec.role == "global" else local_views).append(view)
        return global_views, local_views

    def _colour(self, view: Tensor, spec: ViewSpec, drawn: ViewDraws) -> None:
        """Photometry and normalisation of one view [B, C, size, size], in place: each operation on its own rows."""
        for before_hue, group in enumerate(drawn.hue_after):
            for rows in _chunks(group, view):
                hue = None if drawn.hue is None else drawn.hue[rows]
                pixels = view.index_select(0, rows)  # faster on a CPU than view[rows]
                view.index_copy_(0, rows, photometry.jitter(pixels, drawn.blends[rows], hue, before_hue))
        for rows in _chunks(drawn.grayscale, view):
            view.index_copy_(0, rows, photometry.grayscale(view.index_select(0, rows)))
        for rows in _chunks(drawn.blur, view):
            pixels = view.index_select(0, rows)
            view.index_copy_(0, rows, photometry.blur(pixels, drawn.sigma[rows], spec.kernel, spec.blur_sigma[1]))
        for rows in _chunks(drawn.solarize, view):
            pixels = view.index_select(0, rows)
            view.index_copy_(0, rows, photometry.solarize(pixels, spec.solarize_threshold))
        for part in _chunks(view, view):
            self.normalize(part)


def _crops(images: Tensor, spec: ViewSpec, drawn: ViewDraws) -> Tensor:
    """The crops [B, C, size, size] of one view, in [0, 1]."""
    assert drawn.box is not None, "no crops were drawn: give image_size to draw()"
    crops = torch.empty(*images.shape[:2], spec.size, spec.size, device=images.device)
    parts = zip(*(_chunks(rows, crops) for rows in (crops, images, drawn.box, drawn.flip)), strict=True)
    for part, source, box, flip in parts:
        geometry.crop_resize(source, box, flip, spec.interpolation, out=part)
    return crops


def _chunks(rows: Tensor, view: Tensor) -> Sequence[Tensor]:
    """Parts of `rows`, which has a row an image, such that as many images of `view` fit a CPU's cache.

    An accelerator takes all rows at once.
    """
    if len(rows) == 0:
        return ()
    if view.device.type != "cpu":
        return (rows,)
    return rows.chunk(math.ceil(len(rows) * view[0].numel() * view.element_size() / _CACHE_BYTES))
