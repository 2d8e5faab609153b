"""Pictures that cannot be read: skipped or refused, named and counted, and never a stack trace from a worker."""

import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from datamodules.checks import check_image
from datamodules.decode import UnreadableError
from datamodules.errors import UserError
from datamodules.sources import Source

log = logging.getLogger(__name__)

_NAMED = 10  # pictures named one by one before they are only counted
_PATIENCE = 100  # unreadable pictures in a row: no accident any more, say a disk that went away


class Fault(NamedTuple):
    """One picture that could not be read: which, and why."""

    name: str
    reason: str


def read(
    source: Source, i: int, unreadable: Literal["skip", "stop"], num_channels: int | None = None
) -> Tensor | Fault:
    """Image `i` [C, H, W] uint8 or, with `unreadable="skip"`, what is wrong with it.

    Args:
        source: the images.
        i: which one.
        unreadable: what to do if it cannot be read.
        num_channels: colour channels that it is to have, without a mask; None for any number.

    Raises:
        UserError: with `unreadable="stop"`, if it cannot be read; always if it is no [C, H, W] uint8 of so many
            channels.
    """
    try:
        image = source.image(i)
    except UnreadableError as error:
        if unreadable == "stop":
            raise UserError(
                f"{error.name} cannot be read: {error.reason}. Replace or remove it, "
                "or set data.unreadable to skip to go on without such pictures."
            ) from None
        return Fault(error.name, error.reason)
    check_image(image, source.name(i), num_channels, source.masked)
    return image


def read_next(
    source: Source, i: int, unreadable: Literal["skip", "stop"], num_channels: int | None = None
) -> tuple[int, Tensor, list[Fault]]:
    """The first readable image from `i` on (after the last comes the first), its number, and the faults on the way.

    Arguments are those of `read`.

    Raises:
        UserError: with `unreadable="stop"` at the first fault, otherwise if too many follow one another; and as `read`.
    """
    faults: list[Fault] = []
    while len(faults) < min(_PATIENCE, len(source)):
        found = read(source, i, unreadable, num_channels)
        if not isinstance(found, Fault):
            return i, found, faults
        faults.append(found)
        i = (i + 1) % len(source)
    raise UserError(
        f"{len(faults)} pictures in a row cannot be read, the last of them {faults[-1].name} ({faults[-1].reason}). "
        "See whether the data are complete and the disk is still there."
    )


class FaultReport:
    """Tells the user once about each picture that could not be read."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}  # name -> reason

    def add(self, faults: Sequence[Fault]) -> None:
        """Names the pictures that are new, up to ten in all, and counts the others."""
        for fault in faults:
            if fault.name in self.faults:
                continue
            self.faults[fault.name] = fault.reason
            if len(self.faults) <= _NAMED:
                log.warning("Skipped %s: %s.", fault.name, fault.reason.rstrip("."))
            if len(self.faults) == _NAMED:
                log.warning("Further pictures that cannot be read are only counted.")

    def summarize(self, num_images: int) -> None:
        """Says at the end how many there were, if any.

        Args:
            num_images: size of the data set, all splits together.
        """
        if self.faults:
            log.warning("%d of %d pictures could not be read and were skipped.", len(self.faults), num_images)
