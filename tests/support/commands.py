"""Runs cli.py and the scripts as a user types them, in a process that has the slow imports behind it already."""

import os
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.ranks import in_process

ROOT = Path(__file__).resolve().parents[2]


class Outcome(NamedTuple):
    """What a command left: exit status, and all that it printed."""

    code: int
    text: str


def _run(name: str, arguments: list[str], folder: str, environment: dict[str, str], log: str) -> int:
    os.chdir(folder)
    os.environ.update(environment)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = [name, *arguments]
    sys.path.insert(0, str(ROOT))  # as Python does for a script
    try:
        runpy.run_path(str(ROOT / name), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def program(
    name: str, *arguments: str, folder: Path, environment: dict[str, str] | None = None, timeout: float = 180
) -> Outcome:
    """`python NAME ARGUMENTS` in a folder.

    Args:
        name: cli.py, or a script, as in the project.
        arguments: as on the command line.
        folder: working directory.
        environment: variables beside those of the tests.
        timeout: seconds.
    """
    log = folder / ".output"
    code = in_process(_run, name, list(arguments), str(folder), environment or {}, str(log), timeout=timeout)
    return Outcome(code, log.read_text())


def cli(*arguments: str, folder: Path, environment: dict[str, str] | None = None, timeout: float = 180) -> Outcome:
    """`python cli.py ARGUMENTS` in a folder, see `program`."""
    return program("cli.py", *arguments, folder=folder, environment=environment, timeout=timeout)
