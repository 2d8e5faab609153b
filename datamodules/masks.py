"""Foreground masks of a data set's training images: the file that holds them, and the images with their masks.

A file is a header (a line of JSON, padded with blanks) and then, for each image in order, the bits of a small square
mask, 1 on the foreground, row by row. `scripts/precompute_saliency.py` writes it. A mask that is of no use (hardly
anything in it, or nearly everything) is stored as all ones: then nothing is removed.
"""

import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from datamodules.decode import UnreadableError
from datamodules.errors import UserError
from datamodules.sources import Source, find

VERSION = 1
"""Of the file's layout and of the built-in method, raised whenever masks come out differently."""

_HEADER_BYTES = 4096
_PROBES = 8  # images whose colours tell whether masks and data set belong together
_TOLERANCE = 3  # intensities; decoders differ by one or two


@dataclass
class MaskHeader:
    """What a file of masks says of itself.

    Attributes:
        version: see `VERSION`.
        data: name of the data set.
        method: import path of the saliency function.
        count: masks.
        side: height and width of a mask, in pixels.
        usable: share of the masks that remove anything.
        foreground: mean share of the foreground in those.
        probes: colours of some images, as `probe` returns them.
    """

    version: int
    data: str
    method: str
    count: int
    side: int
    usable: float
    foreground: float
    probes: list[list[int]]


def command(flags: str, out: str = "FILE") -> str:
    """What a person types to make the masks of a data set.

    Args:
        flags: of the data set, as `flags_of` returns them.
        out: where the masks are to go.
    """
    return f"python scripts/precompute_saliency.py {flags} --out {shlex.quote(out)}"


def flags_of(data: LightningDataModule) -> str:
    """The flags of a data set: its class, and its path where it has one."""
    path = getattr(data, "path", None)
    return shlex.join(["--data", type(data).__name__, *(["--data.path", str(path)] if path else [])])


def check_masks(masks: str | None, needed: bool, data: LightningDataModule) -> None:
    """Says where training and the flag disagree on whether there is background to remove.

    Args:
        masks: what `--data.masks` was given.
        needed: whether the recipe removes background.
        data: what is trained on.

    Raises:
        UserError: masks are needed and none were given.
    """
    if needed and not masks:
        out = f"{type(data).__name__.lower()}_masks.bin"
        raise UserError(
            "The recipe removes background, but there are no foreground masks: make them once with "
            f"{command(flags_of(data), out)} (and this run's further data flags) and give --data.masks {out}, or take "
            "a recipe that removes none (for ReLICv2, --data.views relicv2_no_masks)."
        )
    if masks and not needed:
        rank_zero_warn(f"--data.masks {masks} is not used: the recipe of this run, data.views, removes no background.")


class MaskedSource(Source):
    """Images with their masks as a further channel, 0 or 255 but at the edges of masks that were enlarged."""

    masked = True

    def __init__(self, source: Source, path: str, flags: str = "--data NAME") -> None:
        """Opens the file, which stays on the disk and is read where it is needed.

        Args:
            source: the images that the masks were made of, all of them and in the same order.
            path: the file, as given or below PARALLAX_DATA.
            flags: those of the data set, for the command that a refusal names.

        Raises:
            UserError: the file is not there, holds no masks, or those of other images.
        """
        file, header = read_header(path, flags)
        if header.count != len(source):
            raise UserError(
                f"--data.masks {path} holds masks of {header.count} images ({header.data}), but there are "
                f"{len(source)} training images: make the masks of these with {command(flags)}"
            )
        pairs = zip(probe(source), header.probes, strict=True)
        if not all(_alike(ours, theirs) for ours, theirs in pairs if ours and theirs):
            raise UserError(
                f"--data.masks {path} holds masks of {header.data}, but the training images are others, or in another "
                f"order: make the masks of these with {command(flags)}"
            )
        self.source = source
        self.labels = source.labels
        self.class_names = source.class_names
        self.order = source.order
        self._side = header.side
        self._bits = np.memmap(file, np.uint8, "r", _HEADER_BYTES, (header.count, _bytes_per_mask(header.side)))

    def image(self, i: int) -> Tensor:
        """Image `i` with its mask, [C + 1, H, W] uint8."""
        image = self.source.image(i)
        bits = np.unpackbits(self._bits[i], count=self._side**2)
        mask = torch.from_numpy(bits).mul_(255).view(1, 1, self._side, self._side)
        if mask.shape[2:] != image.shape[1:]:
            mask = F.interpolate(mask, tuple(image.shape[1:]), mode="bilinear")
        return torch.cat((image, mask[0]))

    def name(self, i: int) -> str:
        """The image's name."""
        return self.source.name(i)

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the images."""
        return self.source.num_classes


def write_masks(path: Path, source: Source, masks: Iterable[np.ndarray], data: str, method: str) -> MaskHeader:
    """Writes the masks of all images; the file appears under its name only when it is complete.

    Args:
        path: where to.
        source: the images.
        masks: blocks [n, side, side] bool, in all as many masks as images, in their order; all ones if unusable.
        data: name of the data set.
        method: import path of the saliency function.

    Returns:
        The header as written.
    """
    count = usable = side = 0
    foreground = 0.0
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(bytes(_HEADER_BYTES))
            for block in masks:
                bits = block.reshape(len(block), -1)
                file.write(np.packbits(bits, axis=1).tobytes())
                share = bits.mean(axis=1)
                count, side = count + len(block), block.shape[1]
                usable, foreground = usable + int((share < 1).sum()), foreground + float(share[share < 1].sum())
            assert count == len(source), f"{count} masks of {len(source)} images"
            foreground /= max(usable, 1)
            header = MaskHeader(VERSION, data, method, count, side, usable / count, foreground, probe(source))
            file.seek(0)
            file.write(json.dumps(asdict(header)).encode().ljust(_HEADER_BYTES - 1) + b"\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return header


def read_header(path: str, flags: str = "--data NAME") -> tuple[Path, MaskHeader]:
    """The file of masks that is meant by `path`, and its header; `flags` are those of the data set.

    Raises:
        UserError: it is not there, or holds no masks that can be used.
    """
    file = find(path)
    if file is None or not file.is_file():
        raise UserError(f"--data.masks {path}: there is no such file. Make it with {command(flags, path)}")
    with file.open("rb") as opened:
        start = opened.read(_HEADER_BYTES)
    try:
        header = MaskHeader(**json.loads(start))
    except (ValueError, TypeError):  # no JSON; JSON of something else
        raise UserError(f"--data.masks {path} is no file of masks: give one made with {command(flags)}") from None
    whole = _HEADER_BYTES + header.count * _bytes_per_mask(header.side)
    if header.version != VERSION or file.stat().st_size != whole:
        fault = "is damaged" if header.version == VERSION else f"is of version {header.version}, not {VERSION}"
        raise UserError(f"--data.masks {path} {fault}: make it again with {command(flags, path)}")
    return file, header


def probe(source: Source) -> list[list[int]]:
    """The mean colours of the quarters of some images spread over a source; nothing of those that cannot be read."""
    probes = []
    for i in torch.linspace(0, len(source) - 1, _PROBES).round().long().tolist():
        try:
            quarters = F.adaptive_avg_pool2d(source.image(i).float(), 2)
        except UnreadableError:
            probes.append([])
        else:
            probes.append(quarters.flatten().round().int().tolist())
    return probes


def _alike(ours: list[int], theirs: list[int]) -> bool:
    return len(ours) == len(theirs) and all(abs(a - b) <= _TOLERANCE for a, b in zip(ours, theirs, strict=True))


def _bytes_per_mask(side: int) -> int:
    return -(-(side**2) // 8)
