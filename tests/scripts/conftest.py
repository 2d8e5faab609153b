"""Scripts run as a user runs them, but in this process: imports take longer than most of them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run_script(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, int]]:
    """Calls a script's `main` with words of the command line in an empty folder: what it printed, its exit status.

    A script that refuses (status 2) prints its sentence on stderr, others their results on stdout.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(main: Callable[[], None], *words: object) -> tuple[str, int]:
        monkeypatch.setattr(sys, "argv", [f"{main.__module__}.py", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        told = capsys.readouterr()
        return told.err if code == 2 else told.out, code

    return run
