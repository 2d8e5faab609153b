"""What a tar shard holds, found by its headers alone; and its files, read by their place.

Shards follow the WebDataset convention (Aizman, Maltby, Breuel, "High performance I/O for large scale deep learning",
IEEE Big Data 2019, arXiv:2001.01858): the files of a sample share their path up to the first dot of the name,
`000123.jpg` and `000123.cls`. With known places a tar is as good as a folder: any sample can be had without those
before it, so order, resuming and ranks need no thought of their own.
"""

import errno
import json
import os
import re
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from datamodules.decode import UnreadableError
from datamodules.errors import UserError
from datamodules.faults import Fault

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm")
"""Extensions of files that are taken for pictures."""

_OPEN = 64  # shards that a process keeps open
_DOUBLE = "a file of this name comes later in the shard and takes its place, as where a tar is unpacked"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

Place = tuple[int, int]  # of a file in a shard: offset and size, in bytes
State = tuple[int, int]  # of a shard: size in bytes, and time of its last change in ns


@dataclass
class ShardIndex:
    """The samples of a shard, in its order.

    Attributes:
        offset: [n] int64, byte at which each picture begins.
        size: [n] int64, its bytes.
        key: [n] bytes, the path that the files of a sample share.
        label: [n] int64, place of each sample's label in `values`, -1 without one.
        values: the labels that occur, numbers or names.
        faults: what was left out, and why.
        lasting: whether the faults are the shard's, and not those of the disk on that day.
    """

    offset: np.ndarray
    size: np.ndarray
    key: np.ndarray
    label: np.ndarray
    values: list[int | str]
    faults: list[Fault]
    lasting: bool = True


def state_of(shard: Path) -> State:
    """What tells a shard from one that was written over it."""
    stat = shard.stat()
    return stat.st_size, stat.st_mtime_ns


def scan(shard: Path, image_extension: str | None = None, label_field: str = "label") -> ShardIndex:
    """Finds the samples of a shard. Damage ends it: what lies before is kept.

    Args:
        shard: the tar.
        image_extension: of the file that is a sample's picture; None for the only picture there is.
        label_field: entry of a sample's JSON file that is its label.

    Raises:
        UserError: the shard is compressed, or a sample has several pictures.
    """
    state = state_of(shard)
    members, faults, lasting = _members(shard)
    samples, doubles = _grouped(members, broken=bool(faults))
    faults += [Fault(f"{shard}:{path}", _DOUBLE) for path in doubles]
    rows: list[tuple[int, int, bytes, int]] = []
    values: dict[int | str, int] = {}
    for key, files in samples.items():
        name = f"{shard}:{key}"
        try:
            place = _picture(files, image_extension, name)
            label = _label(shard, state, files, label_field)
        except (ValueError, RecursionError, UnreadableError) as error:  # RecursionError: JSON in too many brackets
            faults.append(Fault(name, str(error)))
            lasting &= not isinstance(error, UnreadableError)
            continue
        number = -1 if label is None else values.setdefault(label, len(values))
        rows.append((*place, key.encode("utf-8", "surrogateescape"), number))
    columns = list(zip(*rows, strict=True)) or [[], [], [], []]
    offset, size, number = (np.array(columns[c], dtype=np.int64) for c in (0, 1, 3))
    return ShardIndex(offset, size, np.array(columns[2], dtype=np.bytes_), number, list(values), faults, lasting)


def read_place(shard: Path, state: State, place: Place, name: str) -> bytes:
    """A file of a shard.

    Args:
        shard: the tar.
        state: the shard's when the place was found.
        place: offset and size.
        name: what to call the file in an error.

    Raises:
        UnreadableError: it cannot be read, or the shard is another by now.
    """
    offset, size = place
    data = b""
    try:
        handle = _opened(str(shard), state)
        while len(data) < size:  # a file system in user space may give less than it was asked for
            part = os.pread(handle.number, size - len(data), offset + len(data))
            if not part:
                raise UnreadableError(name, "the shard ends before it does")
            data += part
    except OSError as error:
        raise UnreadableError(name, error.strerror or str(error)) from None
    return data


class _Handle:
    """An open file, closed when nobody reads from it any more; read by place, so threads and forks can share it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@lru_cache(maxsize=_OPEN)
def _opened(shard: str, state: State) -> _Handle:
    handle = _Handle(os.open(shard, os.O_RDONLY))
    now = os.fstat(handle.number)
    if (now.st_size, now.st_mtime_ns) != state:
        raise OSError(errno.ESTALE, "its shard has been written anew since the run began")
    return handle


def _members(shard: Path) -> tuple[list[tuple[str, Place]], list[Fault], bool]:
    """The files of a tar in its order; the fault that ends it too early, if there is one; whether that is the tar's."""
    found: list[tuple[str, Place]] = []
    end = 0
    try:
        with shard.open("rb") as file:
            _refuse_compressed(shard, file.read(8))
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # it would keep them all  # pyright: ignore[reportAttributeAccessIssue]
                    end = member.offset
                    if not 0 <= member.size <= size - member.offset_data:
                        raise tarfile.ReadError(f"{member.name} is cut short")
                    if member.isreg() and not os.path.basename(member.name).startswith("."):  # a Mac's
                        found.append((member.name, (member.offset_data, member.size)))
                    end = tar.offset
            file.seek(end)
            mark = file.read(tarfile.BLOCKSIZE)
            if len(mark) < tarfile.BLOCKSIZE:  # at a damaged header tarfile stops without a word, as at a tar's end
                raise tarfile.ReadError("it ends without a tar's closing mark")
            if any(mark):
                raise tarfile.ReadError("what follows is no header of a file")
    except (tarfile.TarError, ValueError, OSError) as error:  # ValueError: nonsense in a header's numbers
        of_disk = isinstance(error, OSError)
        reason = (error.strerror if of_disk else None) or str(error)
        where = f"{shard} from byte {end} on" if end else str(shard)
        return found, [Fault(where, reason if end else f"it cannot be read as a tar ({reason})")], not of_disk
    return found, [], True


def _refuse_compressed(shard: Path, start: bytes) -> None:
    for magic, how in _COMPRESSED.items():
        if start.startswith(magic):
            raise UserError(
                f"{shard} is compressed ({how}), so its pictures cannot be read by their place: unpack it to a plain "
                "tar. Pictures are compressed already; a shard hardly grows."
            )


def _grouped(members: list[tuple[str, Place]], broken: bool) -> tuple[dict[str, dict[str, Place]], list[str]]:
    """Samples by key, each with its files by extension; and the paths that come twice, of which the last counts.

    Args:
        members: path and place of each file.
        broken: the tar breaks off after these: its last sample is left out, unless it has all that the first one has.
    """
    samples: dict[str, dict[str, Place]] = {}
    doubles: list[str] = []
    key = ""
    for path, place in members:
        folder, name = os.path.split(path)
        stem, _, extension = name.partition(".")
        key = f"{folder}/{stem}".lstrip("/")
        files = samples.setdefault(key, {})
        if extension.lower() in files:
            doubles.append(path)
        files[extension.lower()] = place
    if broken and samples and samples[key].keys() != next(iter(samples.values())).keys():
        del samples[key]
    return samples, doubles


def _picture(files: dict[str, Place], extension: str | None, name: str) -> Place:
    """The picture among a sample's files. Raises ValueError without one."""
    pictures = [e for e in files if (e in PICTURES if extension is None else e == extension)]
    if not pictures:
        raise ValueError(f"it has no picture, only {', '.join(f'.{e}' for e in sorted(files))}")
    if len(pictures) > 1:
        several = " and ".join(f".{e}" for e in pictures)
        raise UserError(f"{name} has {several}: say which is the picture with --data.image_extension {pictures[0]}.")
    return files[pictures[0]]


def _label(shard: Path, state: State, files: dict[str, Place], field: str) -> int | str | None:
    """A sample's label: a number, a name, or None without one. Raises ValueError where it is none of these."""
    if "cls" in files:
        value = read_place(shard, state, files["cls"], "its label").decode().strip()
    elif "json" in files:
        content = json.loads(read_place(shard, state, files["json"], "its label"))
        value = content.get(field) if isinstance(content, dict) else content
    else:
        return None
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value):
        value = int(value)
    if value is None or value == -1:
        return None
    if (isinstance(value, str) and value) or (type(value) is int and 0 <= value < 10**9):  # True is no number
        return value
    raise ValueError(f"its label is {str(value)[:40]!r}, neither a number from 0 on nor a name")
