"""Which checkpoint a run goes on from, and whether the flags at hand may go on from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from callbacks.checkpoint_io import is_complete, newest_complete
from callbacks.plan import NO_LIMIT, Plan, check_length
from datamodules.errors import UserError
from methods.layouts.files import read_file

AUTO = "auto"
NAMES = (None, "", "best", "last", "hpc")  # Lightning's own words for a checkpoint, and none
WHAT = ("model", "data", "seed_everything")
"""Sections of a configuration that say what is trained; how long and where, the trainer's says."""
KEPT_FLAGS = {
    *(f"model.optim.{name}" for name in ("lr", "weight_decay", "options", "lr_scaling", "lr_base_batch")),
    *("model.layer_decay", "model.bias_lr_scale", "model.adversary_lr"),
}
"""What the optimiser's state holds, so that another value would be without effect."""


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


def check_kept(path: str, changed: dict[str, Any], arguments: Namespace) -> None:
    """Refuses a flag of the optimiser that a resumed run could not honour.

    Args:
        path: the checkpoint.
        changed: the model's flags that were others when it was written, with their values there.
        arguments: of the model, as they are given.

    Raises:
        UserError: with the flags and both values.
    """
    kept = [
        f"--{flag} {arguments[flag.removeprefix('model.')]} given, {changed[flag]} there"
        for flag in sorted(KEPT_FLAGS & changed.keys())
    ]
    if kept:
        raise UserError(
            f"--ckpt_path {path} goes on with the optimiser that it holds, which these flags cannot change: "
            f"{'; '.join(kept)}. Give the same, or start a run anew."
        )


def is_finished(path: str, trainer: Namespace, extend: bool) -> bool:
    """Whether a checkpoint is the end of the run that these flags ask for.

    Reads the checkpoint's plan only; that epochs are as long as they were is seen when the data is there, by `RunPlan`.

    Args:
        path: the checkpoint.
        trainer: flags of the trainer.
        extend: whether the run may become another length.

    Raises:
        UserError: it was planned for another length, which `extend` does not allow; or is beyond the new one.
    """
    checkpoint = read_file(path)
    if "plan" not in checkpoint or trainer.fast_dev_run:
        return False
    there = Plan(**checkpoint["plan"])
    here = replace(there, epochs=_max_epochs(trainer), max_steps=trainer.max_steps)
    if not extend:
        check_length(there, here, f"--ckpt_path {path}")
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    done = epochs >= here.epochs != NO_LIMIT or checkpoint["global_step"] >= here.max_steps != NO_LIMIT
    if done and here.steps != there.steps:
        raise UserError(
            f"--ckpt_path {path} is at step {checkpoint['global_step']:,} already, and these flags end the run after "
            f"{here}: give more than that."
        )
    if done:
        rank_zero_info(f"{path} is the end of its run ({there}): nothing is left to do. --extend true goes beyond it.")
    return done


def _max_epochs(trainer: Namespace) -> int:
    """What Lightning makes of `--trainer.max_epochs`, which may be left out."""
    if trainer.max_epochs is not None:
        return trainer.max_epochs
    return 1000 if trainer.max_steps == NO_LIMIT and trainer.max_time is None else NO_LIMIT
