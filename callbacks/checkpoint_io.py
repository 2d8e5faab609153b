"""Checkpoints that are whole or not there: what a run leaves behind when it is killed while it writes one."""

import os
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from callbacks.disk import disk_error, whole
from datamodules.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when all of it is on the disk.

    Lightning puts the file together in memory and may write it in place; a run that is killed meanwhile then loses the
    checkpoint that it wrote before as well.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Replaces the file at `path`; addresses of remote storage are left to Lightning.

        Args:
            checkpoint: what to save.
            path: file to write; its folder is made.
            storage_options: none are known here.

        Raises:
            UserError: the disk is full, or does not let itself be written; what was at `path` is still there.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with whole(place) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            said = disk_error(error)
            if said is None:
                raise
            raise UserError(
                f"The checkpoint {place} could not be written ({said}). The one before it is untouched: make room, or "
                "set --trainer.default_root_dir to another disk, and resume with --ckpt_path."
            ) from error

    def load_checkpoint(self, path: str | Path, *how: Any, **more: Any) -> dict[str, Any]:
        """A run's state.

        Args:
            path: what `save_checkpoint` wrote.
            how: as Lightning gives it.
            more: the same.

        Raises:
            UserError: the file holds something else, such as weights alone.
        """
        found = super().load_checkpoint(path, *how, **more)
        if not (isinstance(found, dict) and {"state_dict", "pytorch-lightning_version"} <= found.keys()):
            raise UserError(
                f"{path} holds no state of a run: give a checkpoint that a run of cli.py wrote. (scripts/evaluate.py "
                "and scripts/export.py take weights alone.)"
            )
        return found


def is_complete(path: Path) -> bool:
    """Whether a checkpoint was written to its end: torch's files close with a table of their contents."""
    return zipfile.is_zipfile(path)


def newest_first(files: Iterable[Path]) -> list[Path]:
    """In the order of their writing, without those that are gone: another run may replace its own meanwhile."""
    written: dict[Path, float] = {}
    for path in files:
        with suppress(OSError):
            written[path] = path.stat().st_mtime
    return sorted(written, key=written.__getitem__, reverse=True)


def newest_complete(files: Iterable[Path]) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint that was written to its end.

    Args:
        files: checkpoints, in any order.

    Returns:
        The file, None where there is none; and the newer ones, which are cut short.
    """
    cut_short: list[Path] = []
    for path in newest_first(files):
        if is_complete(path):
            return path, cut_short
        cut_short.append(path)
    return None, cut_short
