"""Any data set as tar shards in the WebDataset convention, for disks that do not like millions of small files.

python scripts/pack_shards.py --data ImageFolder --data.path FOLDER --out SHARDS
python scripts/pack_shards.py --data CIFAR10 --out SHARDS --shard-size 10000
python cli.py fit --model SimCLR --data WebDataset --data.path SHARDS

Encoded pictures are kept byte for byte; what is only pixels becomes PNG. The shards appear under their folder's name
when all of them are there.
"""

import io
import json
import re
import shlex
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from torchvision.io import encode_png

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, from anywhere
from datamodules import ImageDataModule
from datamodules.errors import UserError
from datamodules.faults import Fault, FaultReport, read
from datamodules.labels import taking_part
from datamodules.loading import default_workers
from datamodules.randomness import permutation
from datamodules.shard_index import indexed
from datamodules.sources import Source
from datamodules.webdataset import CLASSES
from scripts.parsing import PlainParser, answering_mistakes

BLOCK = 256  # pictures that are read at a time
UNFINISHED = ".unfinished"  # folder of shards that are being written
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
EXTENSIONS |= {"PPM": "ppm"}  # by PIL's names; what is none of these is stored as PNG


class Limit(NamedTuple):
    """How much goes into a shard: pictures or bytes, whichever comes first."""

    images: float
    bytes: float


class Sample(NamedTuple):
    """One picture as it goes into a shard."""

    row: int
    extension: str
    data: bytes
    label: int


class ShardWriter:
    """Shards of one split, one after the other; to be used in a `with`, whose end completes the last of them.

    Attributes:
        counts: samples of each shard that is complete.
    """

    def __init__(self, folder: Path, split: str, limit: Limit) -> None:
        self.folder = folder
        self.split = split
        self.limit = limit
        self.counts: list[int] = []
        self._tar: tarfile.TarFile | None = None
        self._labels: list[int] = []
        self._bytes = 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is None:
            self.close()
        elif self._tar is not None:
            self._tar.__exit__(kind, *error)  # closes the file as it is

    def add(self, sample: Sample) -> None:
        """Puts a sample into the shard, or begins another if that one is full."""
        if self._tar is None:
            self._tar = tarfile.TarFile(self._path, "w", format=tarfile.USTAR_FORMAT)
        self._put(f"{sample.row:09}.{sample.extension}", sample.data)
        if sample.label >= 0:
            self._put(f"{sample.row:09}.cls", str(sample.label).encode())
        self._labels.append(sample.label)
        if len(self._labels) >= self.limit.images or self._bytes >= self.limit.bytes:
            self.close()

    def close(self) -> None:
        """Ends the shard that is open, puts its index beside it, and holds it against what went in."""
        if self._tar is None:
            return
        self._tar.close()
        index, _ = indexed(self._path)
        labels = np.array([*index.values, -1])[index.label].tolist()
        assert not index.faults and labels == self._labels, f"{self._path} does not hold what was written to it"
        self.counts.append(len(labels))
        self._tar, self._labels, self._bytes = None, [], 0

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.split}-{len(self.counts):06}.tar"

    def _put(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        self._bytes += tarfile.BLOCKSIZE + -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def extension_of(encoded: bytes) -> str | None:
    """What files of a picture's format end in; None for a format that shards are not read for."""
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            return EXTENSIONS.get(picture.format or "")
    except UnidentifiedImageError:  # torchvision knows some that PIL does not
        return None


def sample(data: ImageDataModule, source: Source, row: int) -> Sample | Fault:
    """Picture `row` as it is stored, if it can be decoded; what is wrong with it otherwise."""
    image = read(source, row, data.unreadable)
    if isinstance(image, Fault):
        return image
    encoded, label = source.encoded(row), int(source.labels[row])
    extension = None if encoded is None else extension_of(encoded)
    if encoded is not None and extension is not None:
        return Sample(row, extension, encoded, label)
    if len(image) not in (1, 3):
        raise UserError(f"{source.name(row)} has {len(image)} channels; shards hold pictures, of 1 or 3.")
    return Sample(row, "png", encode_png(image).numpy().tobytes(), label)


def samples(data: ImageDataModule, source: Source, shuffle: bool) -> Iterator[Sample | Fault]:
    """All pictures of a split, in a fixed random order or in their own."""
    order = permutation(0, 0, len(source)) if shuffle else np.arange(len(source))
    with ThreadPoolExecutor(default_workers(1)) as threads:
        for begin in range(0, len(order), BLOCK):
            rows = order[begin : begin + BLOCK].tolist()
            yield from threads.map(lambda row: sample(data, source, row), rows)


def with_progress(found: Iterator[Sample | Fault], total: int, split: str) -> Iterator[Sample | Fault]:
    """Passes the pictures on; tells at every tenth how long the rest will take."""
    started, told = time.perf_counter(), 0
    for done, one in enumerate(found, start=1):
        yield one
        if done * 10 // total > told and done < total:
            told = done * 10 // total
            rate = done / (time.perf_counter() - started)
            left = (total - done) / rate / 60
            print(f"{split}: {done}/{total} pictures, {rate:.0f} pictures/s, {left:.1f} min left", flush=True)


def pack(data: ImageDataModule, source: Source, split: str, folder: Path, limit: Limit, shuffle: bool) -> None:
    """Writes the shards of one split, and says what they came to.

    Raises:
        UserError: no picture can be read; with `data.unreadable` at `stop`, one cannot.
    """
    report = FaultReport()
    with ShardWriter(folder, split, limit) as writer:
        for found in with_progress(samples(data, source, shuffle), len(source), split):
            if isinstance(found, Fault):
                report.add([found])
            else:
                writer.add(found)
    report.summarize(len(source))
    written = sum(writer.counts)
    assert written + len(report.faults) == len(source), f"{written} of {len(source)} {split} pictures were written"
    if not written:
        raise UserError(f"None of {len(source)} {split} pictures can be read: see --data.path.")
    size = sum(shard.stat().st_size for shard in folder.glob(f"{split}-*.tar")) / 1e6
    shards = f"{len(writer.counts)} shard{'s' if len(writer.counts) > 1 else ''}"
    print(f"{split}: {written} pictures in {shards}, {size:.0f} MB")


def parsed_size(given: str) -> Limit:
    """The limit that `--shard-size` names.

    Raises:
        UserError: it names none.
    """
    parts = re.fullmatch(r"([1-9]\d*) ?(MB|GB)?", given, re.IGNORECASE)
    if parts is None:
        raise UserError(f"--shard-size {given} must be a number of pictures, 10000, or a size, 500MB or 1GB.")
    number, unit = int(parts[1]), (parts[2] or "").upper()
    return Limit(float("inf"), number * {"MB": 1e6, "GB": 1e9}[unit]) if unit else Limit(number, float("inf"))


def run(data: ImageDataModule, out: Path, limit: Limit, shuffle: bool) -> None:
    """Does what the command line asks for: writes into a hidden folder in `out`, and moves all of it up at the end.

    Raises:
        UserError: there is something at `out`, or it cannot be written to.
    """
    unfinished = out / UNFINISHED
    made = not out.exists()
    if not made and (not out.is_dir() or any(file != unfinished for file in out.iterdir())):
        raise UserError(f"--out {out} is there already and not empty: give a new folder, or remove it first.")
    data.prepare_data()
    train, val = taking_part(data, *data.sources())
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
        unfinished.mkdir(parents=True)
        if train.class_names is not None:
            (unfinished / CLASSES).write_text(json.dumps(train.class_names, ensure_ascii=False), encoding="utf-8")
        for split, source in (("train", train), ("val", val)):
            if len(source):
                pack(data, source, split, unfinished, limit, shuffle and split == "train")
        for file in sorted(unfinished.iterdir()):
            file.rename(out / file.name)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error}): give another place.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if made and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    print(f"written: {out}; train on it with --data WebDataset --data.path {shlex.quote(str(out))}")


def main() -> None:
    parser = PlainParser(description=(__doc__ or "").splitlines()[0])
    parser.add_subclass_arguments(ImageDataModule, "data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to make, for --data.path of WebDataset")
    parser.add_argument("--shard-size", default="250MB", help="of a shard: 10000 (pictures), 250MB or 1GB")
    parser.add_argument("--shuffle", type=bool, default=True, help="training pictures in a (fixed) random order")
    with answering_mistakes():
        given = parser.parse_args()
        limit = parsed_size(given.shard_size)
        run(parser.instantiate(given).data, given.out, limit, given.shuffle)


if __name__ == "__main__":
    main()
