"""The folders of runs, and where their checkpoints are."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from datamodules.errors import UserError

DEFAULT = "runs"


def is_address(path: str) -> bool:
    """Whether it names remote storage; as a `Path` it would be a local folder with the scheme for a name."""
    return "://" in path


def folder_of_runs(default_root_dir: str | None) -> Path:
    """The folder in which every run gets one of its own.

    Raises:
        UserError: it is an address.
    """
    root = str(default_root_dir or DEFAULT)
    if is_address(root):
        raise UserError(
            f"--trainer.default_root_dir {root} is an address, and a run writes files: mount it (mount-s3, gcsfuse, "
            "rclone mount) and give the folder, or give one on a disk and copy the runs."
        )
    return Path(root)


def claim_version(root: Path) -> str:
    """Makes the folder version_n of a new run, n above all that are there; of several runs at once each gets its own.

    Only rank 0 makes one: the others write nothing.
    """
    while True:
        taken = [int(m[1]) for p in root.glob("version_*") if (m := re.fullmatch(r"version_(\d+)", p.name))]
        folder = root / f"version_{max(taken, default=-1) + 1}"
        if rank_zero_only.rank != 0:
            return folder.name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"--trainer.default_root_dir {root}: no folder for this run can be made there ({error.strerror})."
            ) from error
        return folder.name


def checkpoints_below(folder: Path) -> Iterator[Path]:
    """All of them, at any depth; folders that go meanwhile are passed over."""
    for below, _, names in os.walk(folder):
        yield from (Path(below, name) for name in names if name.endswith(".ckpt"))


@dataclass(frozen=True)
class Places:
    """Where runs with the settings at hand leave their checkpoints.

    Attributes:
        root: folder of runs.
        logs: folders of the user's own loggers, below which Lightning makes NAME/VERSION/checkpoints.
        own: folders that a ModelCheckpoint was given.
    """

    root: Path
    logs: list[Path] = field(default_factory=list)
    own: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, root: Path, trainer: dict[str, Any]) -> "Places":
        """Those of a run.

        Args:
            root: folder of runs.
            trainer: its flags, as plain data.

        Raises:
            UserError: one of them is an address, where nothing can be looked for.
        """
        logs = _arguments(trainer.get("logger"), "save_dir")
        own = _arguments(trainer.get("callbacks"), "dirpath")
        if remote := next(filter(is_address, logs + own), None):
            raise UserError(
                f"--ckpt_path auto looks for checkpoints in folders, and {remote} is an address: mount it (mount-s3, "
                "gcsfuse, rclone mount) and give the folder."
            )
        return cls(root, [Path(path) for path in logs], [Path(path).expanduser() for path in own])

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(map(str, (self.root, *self.logs, *self.own))))

    def checkpoints(self) -> dict[Path, Path | None]:
        """Every checkpoint there, with the folder of its run where it has one."""
        found: dict[Path, Path | None] = {file: None for folder in self.own for file in folder.glob("*.ckpt")}
        for folder in self.logs:  # at these depths alone, since a logger's folder may be the one at hand
            for below in ("*", "*/*"):
                found |= {file: file.parent.parent for file in folder.glob(f"{below}/checkpoints/*.ckpt")}
        for file in checkpoints_below(self.root):
            run = file.parent.parent
            found[file] = run if self.root in run.parents else None
        return found


def _arguments(classes: Any, name: str) -> list[str]:
    """The values of one argument of classes that a configuration names."""
    listed = classes if isinstance(classes, list) else [classes]
    arguments = [one.get("init_args") or {} for one in listed if isinstance(one, dict)]
    return [value for given in arguments if isinstance(value := given.get(name), str)]
