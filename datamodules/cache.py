"""All images of a split as one tensor, where that pays."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from datamodules.errors import UserError
from datamodules.faults import Fault, FaultReport, read
from datamodules.sources import Source

SplitName = Literal["train", "val"]
CacheChoice = Literal["auto", "device", "ram", "none"]

_AUTO_SIDE = 128  # pixels; batched crops of larger images cost more than a worker's
_AUTO_BYTES = 2 * 1024**3
_PROBES = 16
_THREADS = 4  # decoding releases Python's lock
_BLOCK = 256  # images a thread takes at a time


@dataclass
class Cache:
    """The decoded images of a split.

    Attributes:
        images: [N, C, H, W] uint8; rows of unreadable pictures are black.
        stand_in: [N] int64, for each image the first readable one from it on: itself, unless it is unreadable.
        on_device: whether the images live on the accelerator and the loader yields nothing but their positions.
    """

    images: Tensor
    stand_in: Tensor
    on_device: bool

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[2], self.images.shape[3]

    def gather(self, index: Tensor) -> Tensor:
        """[B, C, H, W] uint8: the images at `index` [B], any image where that is -1."""
        if self.images.device != index.device:  # the first batch on the accelerator brings all images there
            self.images = self.images.to(index.device)
        return self.images[index.clamp(min=0)]


@dataclass
class Split:
    """One side of a data set: its images, and how they are kept.

    Attributes:
        name: which side.
        source: its images.
        unreadable: what to do with pictures that cannot be read.
        num_channels: colour channels of the images, without a mask.
        cache: the decoded images; None if they stay encoded.
    """

    name: SplitName
    source: Source
    unreadable: Literal["skip", "stop"]
    num_channels: int
    cache: Cache | None


def open_split(
    name: SplitName,
    source: Source,
    num_channels: int,
    choice: CacheChoice,
    device: torch.device,
    unreadable: Literal["skip", "stop"],
    report: FaultReport,
) -> Split:
    """Looks at some images of a split, and decodes all of them if they are to be cached.

    Args:
        name: which split.
        source: its images.
        num_channels: colour channels that they are to have, without a mask.
        choice: `auto` caches on the device if all images are of one size, at most 128 pixels a side, and take at most
            2 GiB and a quarter of the accelerator's free memory.
        device: where training happens.
        unreadable: what to do with pictures that cannot be read.
        report: where those are told.

    Raises:
        UserError: if there are no images, or none can be read, or they are no [C, H, W] uint8 of so many channels, or
            the choice was `ram` or `device` and they differ in size.
    """
    if not len(source):
        kind = "training" if name == "train" else "validation"
        raise UserError(f"There are no {kind} images: see data.path, and how training and validation are divided.")
    shapes = _probed_shapes(source, num_channels)
    cache = None
    if choice in ("device", "ram") or (choice == "auto" and _fits(len(source), shapes, device)):
        cache = _load(source, choice, next(iter(shapes)), unreadable, report)
    return Split(name, source, unreadable, num_channels, cache)


def _probed_shapes(source: Source, num_channels: int) -> set[torch.Size]:
    """The shapes [C, H, W] of a few images spread over the source.

    Raises:
        UserError: if none of them can be read, or one is no [C, H, W] uint8 of so many channels.
    """
    shapes: set[torch.Size] = set()
    fault = None
    for i in torch.linspace(0, len(source) - 1, min(_PROBES, len(source))).round().long().tolist():
        found = read(source, i, "skip", num_channels)
        if isinstance(found, Fault):
            fault = found
        else:
            shapes.add(found.shape)
    if not shapes:
        assert fault is not None, "the source is empty"
        tried = min(_PROBES, len(source))
        raise UserError(f"None of {tried} pictures tried could be read, among them {fault.name}: {fault.reason}.")
    return shapes


@torch.inference_mode(False)  # a validation on its own decodes in this mode, which the threads below do not share
def _load(
    source: Source, choice: CacheChoice, shape: torch.Size, unreadable: Literal["skip", "stop"], report: FaultReport
) -> Cache | None:
    """Decodes all images [C, H, W]; None if the choice was `auto` and one of them has another shape."""
    images = torch.zeros(len(source), *shape, dtype=torch.uint8)

    def load(i: int) -> Fault | str | None:
        found = read(source, i, unreadable)
        if isinstance(found, Fault):
            return found
        if found.shape != shape:
            return f"{source.name(i)} is {_describe(found.shape)}, another picture {_describe(shape)}"
        images[i] = found
        return None

    blocks = [range(len(source))[start : start + _BLOCK] for start in range(0, len(source), _BLOCK)]
    with ThreadPoolExecutor(_THREADS) as threads:
        faults = [fault for block in threads.map(lambda block: [load(i) for i in block], blocks) for fault in block]
    unequal = next((fault for fault in faults if isinstance(fault, str)), None)
    if unequal and choice == "auto":
        return None
    if unequal:
        raise UserError(f"data.cache {choice} needs images of one size, but {unequal}: set data.cache to none.")
    if getattr(rank_zero_only, "rank", 0) == 0:  # all ranks find the same
        report.add([fault for fault in faults if isinstance(fault, Fault)])
    readable = torch.tensor([fault is None for fault in faults])
    return Cache(images, _stand_ins(readable), on_device=choice != "ram")


def _fits(num_images: int, shapes: set[torch.Size], device: torch.device) -> bool:
    if len(shapes) > 1:
        return False
    shape = next(iter(shapes))
    limit = _AUTO_BYTES
    if device.type == "cuda":
        # Of all memory, not of what happens to be free: a resumed run must come to the same choice.
        limit = min(limit, torch.cuda.get_device_properties(device).total_memory // 4)
    return max(shape[1:]) <= _AUTO_SIDE and num_images * shape.numel() <= limit


def _stand_ins(readable: Tensor) -> Tensor:
    """[N] int64: for each row the first readable one from it on, going round; at least one is readable."""
    (rows,) = torch.where(readable)
    following = torch.searchsorted(rows, torch.arange(len(readable)))
    return rows[following % len(rows)]


def _describe(shape: torch.Size) -> str:
    return f"{shape[2]}x{shape[1]} with {shape[0]} channel{'s' if shape[0] > 1 else ''}"
