"""Which checkpoint a run goes on from."""

from pathlib import Path

from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from callbacks.checkpoint_io import is_complete, newest_complete
from datamodules.errors import UserError

AUTO = "auto"
NAMES = (None, "", "best", "last", "hpc")  # Lightning's own words for a checkpoint, and none


def checkpoint_to_use(given: str | None, root: str | None) -> str | None:
    """What `--ckpt_path` comes to.

    Args:
        given: a file; a folder, for the newest complete checkpoint below it; `auto`, for the newest below `root`, and
            none (a fresh start) where there is none yet; one of Lightning's words or an address, which pass.
        root: `--trainer.default_root_dir`.

    Returns:
        A file, or what was given where it is no path; None for a fresh start.

    Raises:
        UserError: there is no such file or folder, or nothing whole in it.
    """
    if given in NAMES or "://" in str(given):
        return given
    path = Path(root or "runs") if given == AUTO else Path(str(given))
    if path.is_dir() or given == AUTO:
        found, cut_short = newest_complete(path.rglob("*.ckpt"))
        _tell_of(cut_short)
        if found is None and given != AUTO:
            raise UserError(f"--ckpt_path {given}: there is no complete checkpoint below this folder.")
        rank_zero_info(f"Resuming from {found}." if found else f"No checkpoint below {path} yet: starting anew.")
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


def _tell_of(cut_short: list[Path]) -> None:
    for path in cut_short:
        rank_zero_warn(f"{path} was not written to its end: the newest complete checkpoint before it is used.")
