"""Which settings say what a run trains, and whether two runs have the same."""

from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml

from datamodules.errors import UserError
from methods.layouts.files import read_file

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
ENTRY = "settings"
"""Of a checkpoint: what its run trains."""
READER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # plain data alone; libyaml's takes a fifth of the time


def plain_data(text: str) -> Any:
    """What `yaml.safe_load` reads, in less time."""
    reader = READER(text)
    try:
        return reader.get_single_data()
    finally:
        reader.dispose()


def settings_of_run(folder: Path | None) -> dict[str, Any] | None:
    """What a run trains, by its config.yaml; None where it has none, or no folder."""
    try:
        config = plain_data((folder / "config.yaml").read_text()) if folder else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return what_is_trained(config) if isinstance(config, dict) and {"model", "data"} <= config.keys() else None


def settings_in(checkpoint: Path) -> dict[str, Any] | None:
    """What its run trains, by a checkpoint itself; None where it does not say, as an older one, or cannot be read."""
    try:
        return read_file(str(checkpoint)).get(ENTRY)
    except UserError:
        return None


def what_is_trained(config: dict[str, Any]) -> dict[str, Any]:
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
