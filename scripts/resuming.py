"""Which checkpoint a run goes on from, and whether the flags at hand may go on from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from callbacks.checkpoint_io import is_complete, newest_complete, newest_first
from callbacks.plan import NO_LIMIT, Plan, check_length
from datamodules.errors import UserError
from methods.layouts.files import read_file
from scripts.run_folders import Places, checkpoints_below, is_address
from scripts.same_settings import first_difference, settings_in, settings_of_run, what_is_trained

AUTO = "auto"
NAMES = ("best", "last", "hpc")
"""Lightning's own words for a checkpoint in the folder of the run at hand, which is a new one."""
KEPT_FLAGS = {
    *(f"model.optim.{name}" for name in ("lr", "weight_decay", "options", "lr_scaling", "lr_base_batch")),
    *("model.layer_decay", "model.bias_lr_scale", "model.adversary_lr"),
}
"""What the optimiser's state holds, so that another value would be without effect."""


def checkpoint_to_use(given: str | None, root: Path, flags: dict[str, Any], may_start_anew: bool = True) -> str | None:
    """What `--ckpt_path` comes to.

    Args:
        given: a file; a folder, for the newest complete checkpoint below it; `auto`, for the newest of a run with
            the same settings, where the flags at hand let a run leave one; an address, which passes.
        root: folder of runs.
        flags: the configuration at hand, as plain data.
        may_start_anew: whether `auto` may find none.

    Returns:
        A file, or what was given where it is no path; None for a fresh start.

    Raises:
        UserError: there is no such file or folder, nothing whole in it, or nothing for `auto` where there has to be;
            or one of Lightning's words is given.
    """
    if not given or is_address(given):
        return given
    if given in NAMES:
        raise UserError(
            f"--ckpt_path {given}: every run has a folder of its own, so there is none in this one: give auto, a "
            "folder, or a file such as RUN/checkpoints/last.ckpt."
        )
    if given == AUTO:
        return _automatic(Places.of(root, flags.get("trainer") or {}), flags, may_start_anew)
    path = Path(given)
    if path.is_dir():
        found, cut_short = newest_complete(checkpoints_below(path))
        _tell_of(cut_short)
        if found is None:
            raise UserError(f"--ckpt_path {given}: there is no complete checkpoint below this folder.")
        rank_zero_info(f"Resuming from {found}.")
        return str(found)
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


def _automatic(places: Places, flags: dict[str, Any], may_start_anew: bool) -> str | None:
    """The newest checkpoint of these settings; says which it is, or why there is none."""
    found, cut_short, other = newest_of_these_settings(places, flags)
    _tell_of(cut_short)
    if found is not None:
        rank_zero_info(f"Resuming from {found}.")
        return str(found)
    if not may_start_anew:
        why = f": {other}" if other else ""
        raise UserError(f"--ckpt_path auto: no checkpoint of these settings below {places}{why}. Give a file's path.")
    why = f": {other}. Starting anew." if other else " yet: starting anew."
    rank_zero_info(f"No checkpoint of these settings below {places}{why}")
    return None


def newest_of_these_settings(places: Places, flags: dict[str, Any]) -> tuple[Path | None, list[Path], str | None]:
    """The newest complete checkpoint of a run that trains what these flags do.

    Args:
        places: where to look; they need not be there yet.
        flags: the configuration at hand, as plain data.

    Returns:
        The file, None where there is none; newer ones of such runs, which are cut short; and what the newest of
        another run differs in, None where no newer one is of another.
    """
    here, cut_short, other = what_is_trained(flags), [], None
    found = places.checkpoints()
    runs: dict[Path | None, dict[str, Any] | None] = {}
    for file in newest_first(found):
        run = found[file]
        if run not in runs:
            runs[run] = settings_of_run(run)
        there = runs[run] or settings_in(file)
        difference = "no settings of a run" if there is None else first_difference(there, here)
        if difference is not None:
            other = other or f"the newest, {run or file}, has {difference}"
        elif is_complete(file):
            return file, cut_short, other
        else:
            cut_short.append(file)
    return None, cut_short, other


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

    Reads the checkpoint's plan and its clock; that epochs are as long as they were is seen when the data is there, by
    `RunPlan`.

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
    elif _time_is_up(checkpoint, trainer.max_time):
        rank_zero_info(f"{path} has trained for --trainer.max_time {trainer.max_time}: nothing is left to do.")
        return True
    return done


def _time_is_up(checkpoint: dict[str, Any], max_time: Any) -> bool:
    """Whether a run has trained for as long as `--trainer.max_time` lets it, all its parts together."""
    timer = Timer(max_time)
    timer.load_state_dict(checkpoint["callbacks"].get(timer.state_key, {}))
    left = timer.time_remaining()
    return left is not None and left <= 0


def _max_epochs(trainer: Namespace) -> int:
    """What Lightning makes of `--trainer.max_epochs`, which may be left out."""
    if trainer.max_epochs is not None:
        return trainer.max_epochs
    return 1000 if trainer.max_steps == NO_LIMIT and trainer.max_time is None else NO_LIMIT
