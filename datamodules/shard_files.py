"""Which tar shards a path names, and which of them are for training."""

import glob
import re
from pathlib import Path

from datamodules.errors import UserError
from datamodules.sources import data_root

VAL_NAMES = ("validation", "valid", "val", "dev", "test")
"""Words in the names of shards that are not trained on; the first there is of these is validated on."""

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def find_shards(path: str, argument: str) -> dict[Path, str | None]:
    """The shards that a path names, each with the word that keeps it out of training, None for a training shard.

    Args:
        path: folder, file or pattern, as given or below PARALLAX_DATA.
        argument: which of the data module's it is.

    Returns:
        In alphabetical order, that of a pattern's numbers first. The word is one of `VAL_NAMES` in the name or, in a
        folder, in the path below it, unless `train` is there too.

    Raises:
        UserError: there are none, some of a range are missing, or they are compressed or not files.
    """
    if "://" in path or path.startswith("pipe:"):
        raise UserError(
            f"data.{argument} {path} is an address, and shards are read as files: mount it (mount-s3, gcsfuse, rclone "
            "mount) or copy the shards to a disk, and give the folder."
        )
    below = data_root()
    for root in (Path(path).expanduser(), *([below / path] if below else [])):
        found = _expanded(root)
        if packed := next((file for file in found if file.name.endswith(_PACKED)), None):
            raise UserError(f"{packed} is compressed: unpack it to a plain tar, whose files can be read by place.")
        if found:
            return {shard: _val_name(shard.relative_to(root) if root.is_dir() else shard.name) for shard in found}
    raise UserError(
        f"There are no shards at {path}, here or below PARALLAX_DATA: set data.{argument} to a folder of *.tar or to a "
        'pattern such as "shards/train-{000000..000099}.tar".'
    )


def _expanded(path: Path) -> list[Path]:
    """The tars in a folder or of a pattern, and packed ones; nothing that is hidden."""
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.name.endswith((".tar", *_PACKED)) and not file.is_dir()]
        shown = [f for f in files if not any(part.startswith(".") for part in f.relative_to(path).parts)]
        return _all_there(path, sorted(shown))
    start, *ranges = re.split(r"\{(\d+)\.\.(\d+)\}", str(path))
    names = [start]
    for first, last, rest in zip(ranges[0::3], ranges[1::3], ranges[2::3], strict=True):
        numbers = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
        names = [f"{name}{number}{rest}" for name in names for number in numbers]
    found = [sorted(glob.glob(name)) for name in names]
    if not any(found):
        return []
    return _all_there(path, [Path(file) for name, files in zip(names, found, strict=True) for file in files or [name]])


def _all_there(path: Path, files: list[Path]) -> list[Path]:
    """The files themselves.

    Raises:
        UserError: some of them are not there; a link may point to nothing.
    """
    if missing := [file for file in files if not file.exists()]:
        raise UserError(f"{len(missing)} of the shards {path} are missing, the first of them {missing[0]}.")
    return files


def _val_name(name: Path | str) -> str | None:
    words = re.split(r"[^a-z]+", str(name).lower())
    return None if "train" in words else next((word for word in VAL_NAMES if word in words), None)
