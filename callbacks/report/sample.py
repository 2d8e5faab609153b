"""What the report keeps of the images that pass by, in bounded memory."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from callbacks.pictures import to_pixels
from datamodules.views import Views

FEATURES = 1000  # validation images on the map
THUMBNAIL = 32  # pixels
AUGMENTED = 8  # training images whose views are shown
VIEW = 112  # pixels, longest side of a shown view
_KEYS = 2**32


class ValidationSample:
    """Features and thumbnails of a fixed subset of the validation images: the same ones in each validation.

    Attributes:
        features: [N, D] float32, N at most `FEATURES`; complete after `finish`, as the others.
        label: [N] int64, -1 where unknown.
        thumbnails: [N, C, h, w] uint8.
    """

    def __init__(self, data: Any) -> None:
        """
        Args:
            data: the data module, for the mean and deviation of its images; or None.
        """
        self._mean, self._std = getattr(data, "mean", None), getattr(data, "std", None)
        self._cut = _KEYS  # images with this key or a larger one are out
        self._parts: list[tuple[Tensor, ...]] = []  # of keys, features, labels and thumbnails
        self.features = self.label = self.thumbnails = torch.empty(0)

    def __len__(self) -> int:
        return len(self.label)

    def add(self, batch: Any, outputs: Any) -> None:
        """Keeps those of a batch that may belong to the subset; foreign batches and outputs are passed over."""
        if not isinstance(batch, Views) or not isinstance(outputs, Mapping) or "features" not in outputs:
            return
        index = batch.index.cpu()
        # Fibonacci hashing spreads any run of indices evenly, so the smallest keys are a subset without pattern. It
        # does not depend on the order of the images, nor need it be known how many there will be.
        keys = index * 2654435761 % _KEYS
        rows = ((index >= 0) & (keys < self._cut)).nonzero().flatten()
        if not len(rows):
            return
        there = rows.to(outputs["features"].device)
        thumbnails = to_pixels(batch.global_views[0][there], self._mean, self._std, THUMBNAIL)
        features = outputs["features"].detach()[there].float().cpu()
        self._parts.append((keys[rows], features, batch.label.cpu()[rows], thumbnails))
        if sum(len(part[0]) for part in self._parts) >= 2 * FEATURES:
            self._select()

    def finish(self) -> "ValidationSample":
        """Settles the subset after the last batch."""
        if self._parts:
            self._select()
            _, self.features, self.label, self.thumbnails = self._parts[0]
        return self

    def _select(self) -> None:
        """Cuts what was kept so far down to the smallest keys."""
        columns = [torch.cat(column) for column in zip(*self._parts, strict=True)]
        best = columns[0].argsort()[:FEATURES]
        self._parts = [tuple(column[best] for column in columns)]
        if len(best) == FEATURES:
            self._cut = int(columns[0][best[-1]])


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
