"""Tar shards written here, sound and broken."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.shards import ShardIndex, read_place, state_of

Sample = dict[str, bytes]  # extension -> content


def picture(seed: int, kind: str = "PNG", size: tuple[int, int] = (20, 16)) -> bytes:
    """An encoded picture of noise; the same for the same seed."""
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def sample(number: int, label: Any = None, **files: bytes) -> Sample:
    """A picture of its own, with a label if there is one."""
    labelled = {} if label is None else {"cls": str(label).encode()}
    return {"png": picture(number)} | labelled | files


def write_tar(path: Path, samples: dict[str, Sample], form: int = tarfile.USTAR_FORMAT) -> Path:
    """A shard of samples by key."""
    return write_files(
        path, [(f"{key}.{e}", content) for key, files in samples.items() for e, content in files.items()], form
    )


def write_files(path: Path, files: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of files in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_shards(folder: Path, sizes: list[int], split: str = "train", classes: int = 3) -> Path:
    """Shards `split-000000.tar` ... of so many samples each; labels are numbers, pictures all differ."""
    start = {"train": 0, "val": 9000}[split]
    for number, size in enumerate(sizes):
        samples = {f"{i:06}": sample(i, i % classes) for i in range(start, start + size)}
        write_tar(folder / f"{split}-{number:06}.tar", samples)
        start += size
    return folder


def keys(index: ShardIndex) -> list[str]:
    """Of each sample, in the order of the shard."""
    return [key.decode() for key in index.key]


def labels(index: ShardIndex) -> list[Any]:
    """Of each sample as it was written, None where it has none."""
    return [None if i < 0 else index.values[i] for i in index.label]


def contents(shard: Path, index: ShardIndex) -> list[bytes]:
    """Each sample's encoded picture, read where the index says."""
    places = zip(index.offset.tolist(), index.size.tolist(), strict=True)
    return [read_place(shard, state_of(shard), place, "x") for place in places]
