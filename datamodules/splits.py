"""The training and the validation side of a data set, as a datamodule holds them."""

from typing import Literal

import torch

from datamodules.cache import CacheChoice, Split, SplitName, open_split
from datamodules.errors import UserError
from datamodules.faults import FaultReport
from datamodules.loading import RawBatch, Refusal
from datamodules.sources import Source


class Splits:
    """Both sides of a data set, each opened (and decoded, if it is to be cached) when it is first needed.

    Attributes:
        sources: the images of each side; empty until they are found.
    """

    def __init__(self, cache: CacheChoice, unreadable: Literal["skip", "stop"]) -> None:
        """Begins without images.

        Args:
            cache: where decoded images rest.
            unreadable: what to do with pictures that cannot be read.
        """
        self.sources: dict[SplitName, Source] = {}
        self._cache: CacheChoice = cache
        self._unreadable: Literal["skip", "stop"] = unreadable
        self._opened: dict[SplitName, Split] = {}
        self._faults = FaultReport()

    def open(self, name: SplitName, num_channels: int, device: torch.device) -> Split:
        """A side, whose images are to have `num_channels`; training happens on `device`."""
        if name not in self._opened:
            self._opened[name] = open_split(
                name, self.sources[name], num_channels, self._cache, device, self._unreadable, self._faults
            )
        return self._opened[name]

    def admit(self, batch: RawBatch | Refusal) -> RawBatch:
        """The batch, once it has been told which pictures of it could not be read.

        Raises:
            UserError: a worker sent a refusal in place of a batch.
        """
        if isinstance(batch, Refusal):
            raise UserError(batch.message)
        self._faults.add(batch.faults)
        return batch

    def summarize(self) -> None:
        """Says how many pictures were skipped, if any."""
        self._faults.summarize(sum(len(source) for source in self.sources.values()))
