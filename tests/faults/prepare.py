"""What fills the folder in which a fault happens."""

import io
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.faults.fault import ALONE, MOCO, Prepare
from tests.support.commands import program

LAST = "runs/version_0/checkpoints/last.ckpt"


def train(folder: Path) -> Path:
    """A run of MoCo that comes to its end, in an empty folder; returns that."""
    name, *words = shlex.split(MOCO)
    code, text = program(name, *words, folder=folder, environment=ALONE)
    assert code == 0, text
    return folder


def file(name: str, content: str | bytes) -> Prepare:
    """One file."""

    def write(folder: Path, _: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def directory(name: str) -> Prepare:
    """An empty folder."""

    def make(folder: Path, _: Path) -> None:
        (folder / name).mkdir(parents=True)

    return make


def picture(seed: int = 0, shape: tuple[int, ...] = (24, 24, 3), kind: str = "PNG", mode: str | None = None) -> bytes:
    """An encoded picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    encoded = io.BytesIO()
    made = Image.fromarray(pixels)
    (made.convert(mode) if mode else made).save(encoded, kind)
    return encoded.getvalue()


def pictures(root: str = "pictures", count: int = 12, broken: dict[int, bytes] | None = None) -> Prepare:
    """Two class folders; some of the pictures may hold other bytes."""

    def write(folder: Path, _: Path) -> None:
        for i in range(count):
            place = folder / root / "ab"[i % 2] / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((broken or {}).get(i, picture(i)))

    return write


def table(
    name: str = "pictures/train-0.parquet", count: int = 12, label: str = "label", image: str = "image"
) -> Prepare:
    """Pictures in a Parquet file, as they come from the Hugging Face hub."""

    def write(folder: Path, _: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rows = {image: [{"bytes": picture(i), "path": None} for i in range(count)], label: [0, 1] * (count // 2)}
        pair = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        schema = pyarrow.schema([(image, pair), (label, pyarrow.int64())])
        columns = '{"info": {"features": {"%s": {"_type": "Image"}, "%s": {"_type": "Value", "dtype": "int64"}}}}'
        marked = pyarrow.table(rows, schema).replace_schema_metadata({"huggingface": columns % (image, label)})
        parquet.write_table(marked, folder / name)

    return write


def shortened(name: str, share: float = 0.5) -> Prepare:
    """Cuts a file of the folder short."""

    def cut(folder: Path, _: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * share)])

    return cut


def finished_run(folder: Path, trained: Path) -> None:
    """The folder of a run of MoCo that came to its end."""
    shutil.copytree(trained / "runs", folder / "runs")


def edited(change: Any, name: str = "other.ckpt") -> Prepare:
    """The run's last checkpoint, changed by a function of its contents."""

    def save(folder: Path, trained: Path) -> None:
        checkpoint = torch.load(trained / LAST, weights_only=True)
        torch.save(change(checkpoint), folder / name)

    return save


class Code:
    """A pickle that runs a command when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch it_ran",)


def pickled_code(folder: Path, _: Path) -> None:
    """A checkpoint with such a pickle in it."""
    torch.save({"state_dict": {}, "hyper_parameters": Code()}, folder / "evil.ckpt")
