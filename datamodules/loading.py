"""Batches of one split as the loader hands them over, before they become views on the device."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augment import Augment, CleanView, Draws
from datamodules.cache import Split, SplitName
from datamodules.errors import UserError
from datamodules.faults import Fault, read, read_next


class RawBatch:
    """B images on their way to the device, with the numbers that their augmentation will use.

    A class of its own and no NamedTuple, so that a Trainer of 16- or 64-bit precision leaves the draws alone; with the
    two methods by which loader and Lightning pin and move it.
    """

    def __init__(
        self,
        split: SplitName,
        index: Tensor,
        label: Tensor,
        images: list[Tensor],
        draws: Draws | None,
        faults: Sequence[Fault],
    ) -> None:
        """Holds on to the tensors.

        Args:
            split: where the images are from.
            index: [B] int64, -1 where there is no image.
            label: [B] int64, -1 where unknown.
            images: uint8. Nothing if they rest on the device; the whole images [B, C, H, W] if they rest in memory;
                otherwise the crops [B, C, s, s] of each view.
            draws: what was drawn for the training views; None for clean ones.
            faults: pictures that could not be read while the batch was made.
        """
        self.split: SplitName = split
        self.index = index
        self.label = label
        self.images = images
        self.draws = draws
        self.faults = faults

    def to(self, device: torch.device) -> "RawBatch":
        """The batch on a device."""
        return self._map(lambda tensor: move_data_to_device(tensor, device))

    def pin_memory(self) -> "RawBatch":
        """The batch in page-locked memory, from where copies to an accelerator overlap with its work."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "RawBatch":
        tensors = (self.index, self.label, self.images, self.draws)
        index, label, images, draws = apply_to_collection(tensors, Tensor, function)
        return RawBatch(self.split, index, label, images, draws, self.faults)


class Refusal(NamedTuple):
    """Travels in place of a batch when the user has to mend something: a worker that raised would print its stack."""

    message: str


class TrainBatches(Dataset):
    """Training batches by position (epoch, [B] int64); with an unreadable picture's place taken by the next one."""

    def __init__(self, split: Split, augment: Augment) -> None:
        self.split = split
        self.augment = augment

    def __getitem__(self, position: tuple[int, np.ndarray]) -> RawBatch | Refusal:
        epoch, rows = position
        return _or_refusal(self._cached if self.split.cache else self._decoded, epoch, torch.from_numpy(rows))

    def _cached(self, epoch: int, rows: Tensor) -> RawBatch:
        cache, source = self.split.cache, self.split.source
        assert cache is not None
        index = cache.stand_in[rows]
        images = [] if cache.on_device else [cache.gather(index)]
        draws = self.augment.draw(epoch, index, cache.image_size)
        return RawBatch(self.split.name, index, source.labels[index], images, draws, [])

    def _decoded(self, epoch: int, rows: Tensor) -> RawBatch:
        source = self.split.source
        found = [read_next(source, row, self.split.unreadable, self.split.num_channels) for row in rows.tolist()]
        index = torch.tensor([i for i, _, _ in found])
        crops = zip(*(self.augment.crop(image, epoch, i) for i, image, _ in found), strict=True)
        images = [torch.stack(view) for view in crops]
        faults = [fault for _, _, skipped in found for fault in skipped]
        return RawBatch(self.split.name, index, source.labels[index], images, self.augment.draw(epoch, index), faults)


class CleanBatches(Dataset):
    """Batches for evaluation by [B] int64 positions, -1 for padding; an unreadable picture becomes padding."""

    def __init__(self, split: Split, clean: CleanView) -> None:
        self.split = split
        self.clean = clean

    def __getitem__(self, rows: np.ndarray) -> RawBatch | Refusal:
        return _or_refusal(self._cached if self.split.cache else self._decoded, torch.from_numpy(rows))

    def _cached(self, rows: Tensor) -> RawBatch:
        cache = self.split.cache
        assert cache is not None
        index = torch.where(cache.stand_in[rows] == rows, rows, -1)
        return self._batch(index, [] if cache.on_device else [cache.gather(index)], [])

    def _decoded(self, rows: Tensor) -> RawBatch:
        index = rows.clone()
        images = torch.zeros(len(rows), self.split.num_channels, self.clean.size, self.clean.size, dtype=torch.uint8)
        faults: list[Fault] = []
        for b, row in enumerate(rows.tolist()):
            if row < 0:
                continue
            found = read(self.split.source, row, self.split.unreadable, self.split.num_channels)
            if isinstance(found, Fault):
                faults.append(found)
                index[b] = -1
            else:
                images[b] = self.clean.crop(found)
        return self._batch(index, [images], faults)

    def _batch(self, index: Tensor, images: list[Tensor], faults: list[Fault]) -> RawBatch:
        label = torch.where(index >= 0, self.split.source.labels[index], -1)
        return RawBatch(self.split.name, index, label, images, None, faults)


def _or_refusal(make: Callable[..., RawBatch], *position: Any) -> RawBatch | Refusal:
    try:
        return make(*position)
    except UserError as error:
        return Refusal(str(error))


class ResumableLoader(DataLoader):
    """A loader that goes on in the middle of an epoch, because its sampler starts where the trainer's counters stand.

    So it has nothing to save; the two methods tell Lightning, which would otherwise warn that the resumed epoch starts
    over.
    """

    def __iter__(self) -> Iterator[Any]:
        """Asks the sampler and starts the workers at the first `next`, not before.

        Lightning makes the first iterator as soon as anybody asks for the number of steps, before it restores the
        counters that say where to begin.
        """
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a loader is ahead of the training by what it prefetched, so its own place would be wrong."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


def default_workers(ranks_here: int) -> int:
    """Loading processes of one rank: its share of the cores that this process may use, from 1 to 16.

    Args:
        ranks_here: ranks on this machine.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, max(1, cores // ranks_here))  # each holds two batches of crops
