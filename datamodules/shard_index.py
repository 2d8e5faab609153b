"""The index of a shard on file, so that its headers are read once and not in every process of every run."""

import hashlib
import json
import os
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from datamodules.faults import Fault
from datamodules.shards import ShardIndex, scan, state_of

_VERSION = 1  # raised whenever an index comes out differently


def indexed(shard: Path, image_extension: str | None = None, label_field: str = "label") -> tuple[ShardIndex, bool]:
    """The index of a shard: the one on file, or else a new one, which is put on file.

    It lies beside the shard, or in the user's cache folder where that cannot be written, and is good for as long as the
    shard keeps its size and time. Where neither can be written, nothing is kept.

    Args:
        shard: the tar.
        image_extension: see `scan`.
        label_field: see `scan`.

    Returns:
        The index, and whether it is new.

    Raises:
        UserError: see `scan`.
    """
    state = state_of(shard)
    about = json.dumps([_VERSION, *state, image_extension, label_field])
    files = (shard.with_name(f"{shard.name}.index"), _in_cache(shard))
    for file in files:
        found = _load(file, about, shard, state[0])
        if found is not None:
            return found, False
    made = scan(shard, image_extension, label_field)
    for file in files if made.lasting else ():
        if _save(made, file, about, shard):
            break
    return made, True


def _in_cache(shard: Path) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "parallax" / "shards" / f"{hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:24]}.index"


def _load(file: Path, about: str, shard: Path, shard_size: int) -> ShardIndex | None:
    """What is on file; None if that is nothing, or of another shard, or damaged."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
            if str(kept["about"]) != about:
                return None
            offset, size, key, label = (kept[name] for name in ("offset", "size", "key", "label"))
            values, faults = json.loads(str(kept["values"])), json.loads(str(kept["faults"]))
            named = [Fault(f"{shard}{where}", reason) for where, reason in faults]
            index = ShardIndex(offset, size, key, label, values, named)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    alike = len({len(offset), len(size), len(key), len(label)}) == 1
    sound = alike and bool(
        ((offset >= 0) & (size >= 0) & (offset + size <= shard_size) & (label >= -1) & (label < len(values))).all()
    )
    return index if sound else None


def _save(index: ShardIndex, file: Path, about: str, shard: Path) -> bool:
    """Puts an index on file, complete or not at all, as several ranks may do at once. False if that cannot be."""
    unfinished = file.with_name(f".{file.name}.{os.urandom(4).hex()}.part")
    faults = [(name.removeprefix(str(shard)), reason) for name, reason in index.faults]  # shards may be moved
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as opened:
            np.savez_compressed(
                opened,
                about=np.array(about),
                offset=index.offset,
                size=index.size,
                key=index.key,
                label=index.label,
                values=np.array(json.dumps(index.values)),
                faults=np.array(json.dumps(faults)),
            )
        unfinished.replace(file)
    except OSError:
        return False
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return True
