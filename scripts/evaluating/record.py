"""Where measured numbers are kept: looked at before the first is measured, written after each."""

import json
import os
import re
from pathlib import Path
from typing import Any

from datamodules.errors import UserError
from scripts.reproduce import ROOT

IDENTITY = ("checkpoint", "network", "data", "flags")  # what the rows of one result share


def named(name: str, overwrite: bool) -> Path:
    """results/NAME.json, which can be written.

    Raises:
        UserError: it is no plain name, the file is there already, or the folder cannot be written to.
    """
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(
            f"--name {name!r} becomes a file of results/: it must begin with a letter or digit and have only letters, "
            "digits, '.', '_', '+' and '-'."
        )
    path = ROOT / "results" / f"{name}.json"
    if path.exists() and not overwrite:
        raise UserError(f"results/{name}.json is there already: add --overwrite, or give another --name.")
    _check_place(path, "make it writable")
    return path


def of_run(folder: Path) -> Path:
    """evaluation.json of a run, which can be read if it is there, and written.

    Raises:
        UserError: it cannot.
    """
    path = folder / "evaluation.json"
    _check_place(path, "give --name NAME for results/NAME.json instead")
    _earlier(path)
    return path


def add(path: Path, result: dict[str, Any]) -> None:
    """Writes a result beside the earlier ones in a file.

    Where network, data and flags are those of an earlier result its rows are kept, and only those of the same title
    and seeds are replaced: a short suite takes nothing from a long one.

    Args:
        path: from `of_run`.
        result: with the keys of `IDENTITY`, and `rows`.
    """
    result = json.loads(json.dumps(result))  # as it will be read: lists for tuples
    results = _earlier(path)
    same = [one for one in results if all(one.get(name) == result[name] for name in IDENTITY)]
    if same:
        same[0]["rows"] = list((_by_key(same[0]["rows"]) | _by_key(result["rows"])).values())
    else:
        results.append(result)
    write(path, results)


def write(path: Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all.

    Raises:
        UserError: the system refuses, for example as the disk is full.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{os.path.relpath(path)} cannot be written: {error.strerror}.") from None


def _check_place(path: Path, remedy: str) -> None:
    folder = path.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)) or path.is_dir():
        raise UserError(f"{os.path.relpath(path)} cannot be written: {remedy}.")


def _earlier(path: Path) -> list[dict[str, Any]]:
    """The results that a file holds already; none if there is no file."""
    try:
        found = json.loads(path.read_text()) if path.exists() else []
    except (OSError, ValueError):
        found = None
    if not isinstance(found, list) or not all(isinstance(one, dict) and _are_rows(one.get("rows")) for one in found):
        raise UserError(f"{os.path.relpath(path)} is no list of results as this command writes it: move it away first.")
    return found


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) and {"title", "seeds"} <= row.keys() for row in value)


def _by_key(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by what tells one from another."""
    return {json.dumps([row["title"], row["seeds"]]): row for row in rows}
