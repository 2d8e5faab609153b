"""What the report keeps of the images that pass by, in bounded memory."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from callbacks.report.pictures import to_pixels
from datamodules.views import Views

FEATURES = 1000  # validation images on the map
THUMBNAIL = 32  # pixels
AUGMENTED = 8  # training images whose views are shown
VIEW = 112  # pixels, longest side of a shown view


class ValidationSample:
    """Features and thumbnails of a fixed subset of the validation images: the same ones in each validation.

    Attributes:
        features: [N, D] float32, N at most `FEATURES`.
        label: [N] int64, -1 where unknown.
        thumbnails: [N, C, h, w] uint8.
    """

    def __init__(self, data: Any) -> None:
        """
        Args:
            data: the data module, for the mean and deviation of its images; or None.
        """
        self._mean, self._std = getattr(data, "mean", None), getattr(data, "std", None)
        self._keys = torch.empty(0, dtype=torch.int64)
        self.features = self.label = self.thumbnails = torch.empty(0)

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, batch: Any, outputs: Any) -> None:
        """Keeps those of a batch that belong to the subset; foreign batches and outputs are passed over."""
        if not isinstance(batch, Views) or not isinstance(outputs, Mapping) or "features" not in outputs:
            return
        index = batch.index.cpu()
        # Fibonacci hashing spreads any run of indices evenly, so the smallest keys are a subset without pattern. It
        # does not depend on the order of the images, nor need it be known how many there will be.
        keys = index * 2654435761 % 2**32
        wanted = index >= 0
        if len(self) == FEATURES:
            wanted &= keys < self._keys.max()
        rows = wanted.nonzero().flatten()
        if not len(rows):
            return
        there = rows.to(outputs["features"].device)
        images = to_pixels(batch.global_views[0][there], self._mean, self._std, THUMBNAIL)
        new = (keys[rows], outputs["features"].detach()[there].float().cpu(), batch.label.cpu()[rows], images)
        old = (self._keys, self.features, self.label, self.thumbnails)
        merged = [torch.cat([a, b]) for a, b in zip(old, new, strict=True)] if len(self) else list(new)
        best = merged[0].argsort()[:FEATURES]
        self._keys, self.features, self.label, self.thumbnails = (column[best] for column in merged)


class ViewSample:
    """The augmented views of a few training images, as the network saw them.

    Attributes:
        index: [N] int64, positions in the training set.
        label: [N] int64, -1 where unknown.
        views: V tensors [N, C, h, w] uint8, the global views first; shrunk by one factor, so that sizes compare.
        num_global: how many of them are global views.
    """

    def __init__(self, batch: Views, data: Any) -> None:
        """
        Args:
            batch: a training batch; its first images are taken.
            data: the data module, for the mean and deviation of its images; or None.
        """
        first = batch.rows(0, AUGMENTED)
        mean, std = getattr(data, "mean", None), getattr(data, "std", None)
        largest = max(max(view.shape[2:]) for view in first.global_views)
        shrink = min(1.0, VIEW / largest)
        self.index, self.label = first.index.cpu(), first.label.cpu()
        self.num_global = len(first.global_views)
        self.views = [
            to_pixels(view, mean, std, max(1, round(max(view.shape[2:]) * shrink)))
            for view in [*first.global_views, *first.local_views]
        ]


def clean_images(data: Any, index: Tensor, device: torch.device, seconds: float = 3.0) -> dict[int, Tensor]:
    """Looks up training images as they were before augmentation, among as many as can be read in a few seconds.

    Args:
        data: the data module.
        index: [N] int64, positions in the training set.
        device: where the data module shall make them.
        seconds: when to give up.

    Returns:
        Position -> [C, h, w] uint8; without those that did not turn up in time.
    """
    wanted, found = set(index.tolist()), {}
    deadline = time.monotonic() + seconds
    for batch in data.clean_batches("train", device, raw=True):
        for row in torch.isin(batch.index.cpu(), index).nonzero().flatten().tolist():
            image = to_pixels(batch.global_views[0][row : row + 1], [0.0] * 3, [1.0] * 3, VIEW)[0]
            found[int(batch.index[row])] = image
        if len(found) == len(wanted) or time.monotonic() > deadline:
            break
    return found
