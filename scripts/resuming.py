"""Which checkpoint a run goes on from."""

from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from callbacks.checkpoint_io import is_complete, newest_complete
from datamodules.errors import UserError

AUTO = "auto"
NAMES = (None, "", "best", "last", "hpc")  # Lightning's own words for a checkpoint, and none
WHAT = ("model", "data", "seed_everything")
"""Sections of a configuration that say what is trained; how long and where, the trainer's says."""


def checkpoint_to_use(given: str | None, root: str | None, flags: dict[str, Any]) -> str | None:
    """What `--ckpt_path` comes to.

    Args:
        given: a file; a folder, for the newest complete checkpoint below it; `auto`, for the newest below `root` of a
            run with the same method, data and seed, and none (a fresh start) where there is none yet; one of
            Lightning's words or an address, which pass.
        root: `--trainer.default_root_dir`.
        flags: the configuration at hand, as plain data.

    Returns:
        A file, or what was given where it is no path; None for a fresh start.

    Raises:
        UserError: there is no such file or folder, or nothing whole in it.
    """
    if given in NAMES or "://" in str(given):
        return given
    path = Path(root or "runs") if given == AUTO else Path(str(given))
    if path.is_dir() or given == AUTO:
        files = [file for file in path.rglob("*.ckpt") if given != AUTO or is_of_this_run(file, flags)]
        found, cut_short = newest_complete(files)
        _tell_of(cut_short)
        if found is None and given != AUTO:
            raise UserError(f"--ckpt_path {given}: there is no complete checkpoint below this folder.")
        anew = f"No checkpoint of this method, data and seed below {path} yet: starting anew."
        rank_zero_info(f"Resuming from {found}." if found else anew)
        return None if found is None else str(found)
    if not path.exists():
        raise UserError(
            f"--ckpt_path {given}: there is no such file. A run's newest is checkpoints/last.ckpt in its folder."
        )
    if is_complete(path):
        return str(path)
    before, _ = newest_complete(path.parent.glob("*.ckpt"))
    if before is None:
        raise UserError(f"--ckpt_path {given} is no checkpoint, or was not written to its end: give another file.")
    _tell_of([path])
    rank_zero_info(f"Resuming from {before}.")
    return str(before)


def is_of_this_run(checkpoint: Path, flags: dict[str, Any]) -> bool:
    """Whether the config.yaml in the checkpoint's run folder trains the same method on the same data and seed."""
    try:
        there = yaml.safe_load((checkpoint.parent.parent / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return False
    return isinstance(there, dict) and all(there.get(name) == flags.get(name) for name in WHAT)


def _tell_of(cut_short: list[Path]) -> None:
    for path in cut_short:
        rank_zero_warn(f"{path} was not written to its end: the newest complete checkpoint before it is used.")
