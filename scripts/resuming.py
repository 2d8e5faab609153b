"""Which checkpoint a run goes on from, and whether the flags at hand may go on from it."""

from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml
from jsonargparse import Namespace
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from callbacks.checkpoint_io import is_complete, newest_complete
from callbacks.plan import NO_LIMIT, Plan, check_length
from datamodules.errors import UserError
from methods.layouts.files import read_file

AUTO = "auto"
NAMES = ("best", "last", "hpc")
"""Lightning's own words for a checkpoint in the folder of the run at hand, which is a new one."""
WHAT = ("model", "data", "seed_everything")
"""Sections of a configuration that say what is trained."""
WHAT_OF_TRAINER = (
    *("precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches"),
    *("limit_train_batches", "overfit_batches"),
)
"""The trainer's settings that do; its others say how long, where and what is written."""
HOW = {
    *("model.compile", "model.channels_last"),
    *("data.num_workers", "data.cache", "data.eval_batch_size"),
}
"""Settings of `WHAT` that only say how it is computed."""
FREE = ("options", "dict_kwargs")
"""Dictionaries of the user's own: one without a name is another one."""
SHOWN = 60  # characters of a value in a sentence
KEPT_FLAGS = {
    *(f"model.optim.{name}" for name in ("lr", "weight_decay", "options", "lr_scaling", "lr_base_batch")),
    *("model.layer_decay", "model.bias_lr_scale", "model.adversary_lr"),
}
"""What the optimiser's state holds, so that another value would be without effect."""


def checkpoint_to_use(given: str | None, root: str | None, flags: dict[str, Any]) -> str | None:
    """What `--ckpt_path` comes to.

    Args:
        given: a file; a folder, for the newest complete checkpoint below it; `auto`, for the newest below `root` of a
            run with the same settings, and none (a fresh start) where there is none; an address, which passes.
        root: `--trainer.default_root_dir`.
        flags: the configuration at hand, as plain data.

    Returns:
        A file, or what was given where it is no path; None for a fresh start.

    Raises:
        UserError: there is no such file or folder, or nothing whole in it; or one of Lightning's words is given.
    """
    if not given or "://" in given:
        return given
    if given in NAMES:
        raise UserError(
            f"--ckpt_path {given}: every run has a folder of its own, so there is none in this one: give auto, a "
            "folder, or a file such as RUN/checkpoints/last.ckpt."
        )
    if given == AUTO:
        return newest_of_these_settings(Path(root or "runs"), flags)
    path = Path(given)
    if path.is_dir():
        found, cut_short = newest_complete(path.rglob("*.ckpt"))
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


def newest_of_these_settings(root: Path, flags: dict[str, Any]) -> str | None:
    """The newest complete checkpoint below `root` of a run that trains what these flags do, by its config.yaml.

    Says which it is; or, where there is none, what the newest run below `root` differs in.

    Args:
        root: folder of runs, which need not be there yet.
        flags: the configuration at hand, as plain data.
    """
    files = list(root.rglob("*.ckpt"))
    difference = {run: _difference(run, flags) for run in {file.parent.parent for file in files}}
    found, cut_short = newest_complete(file for file in files if not difference[file.parent.parent])
    _tell_of(cut_short)
    if found is not None:
        rank_zero_info(f"Resuming from {found}.")
        return str(found)
    others = [file for file in files if difference[file.parent.parent]]
    if others:
        run = max(others, key=lambda file: file.stat().st_mtime).parent.parent
        why = f"No checkpoint of these settings below {root}: the newest, {run}, has {difference[run]}. Starting anew."
    else:
        why = f"No checkpoint of these settings below {root} yet: starting anew."
    rank_zero_info(why)
    return None


def _difference(run: Path, flags: dict[str, Any]) -> str | None:
    """What keeps these flags from going on with a run, None where nothing does."""
    try:
        there = yaml.safe_load((run / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        there = None
    if not (isinstance(there, dict) and {"model", "data"} <= there.keys()):
        return "no config.yaml of a run"
    return first_difference(_what(there), _what(flags))


def _what(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that says what is trained."""
    trainer = config.get("trainer") or {}
    return {name: config[name] for name in WHAT if name in config} | {
        "trainer": {name: trainer[name] for name in WHAT_OF_TRAINER if name in trainer}
    }


def first_difference(there: Any, here: Any, flag: str = "") -> str | None:
    """The first setting that two configurations both name, with another value; a new one keeps no run from going on.

    Args:
        there: plain data of the one.
        here: of the other.
        flag: name of the setting that they are the values of, empty for the whole.

    Returns:
        The flag and both values, None where there is none.
    """
    if flag in HOW:
        return None
    if isinstance(there, dict) and isinstance(here, dict) and flag.rpartition(".")[2] not in FREE:
        names = {name: _below(flag, name) for name in there if name in here}
        return next(filter(None, (first_difference(there[name], here[name], names[name]) for name in names)), None)
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = enumerate(zip(there, here, strict=True))
        return next(filter(None, (first_difference(*pair, f"{flag}[{i}]") for i, pair in pairs)), None)
    return None if there == here else f"--{flag} {_shown(there)}, not {_shown(here)}"


def _below(flag: str, name: str) -> str:
    """The flag of a name in a section: a class and its arguments have the section's."""
    return flag if name in ("class_path", "init_args") else f"{flag}.{name}".removeprefix(".")


def _shown(value: Any) -> str:
    return "null" if value is None else shorten(str(value), SHOWN, placeholder=" ...")


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
