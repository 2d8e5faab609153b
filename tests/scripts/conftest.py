"""Scripts run as a user runs them, but in this process: imports take longer than most of them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run_script(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, int]]:
    """Calls a script's `main` with words of the command line in an empty folder: what it printed, its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(main: Callable[[], None], *words: object) -> tuple[str, int]:
        monkeypatch.setattr(sys, "argv", [f"{main.__module__}.py", *map(str, words)])
        try:
            main()
        except SystemExit as stopped:
            return capsys.readouterr().err, int(stopped.code or 0)
        return capsys.readouterr().out, 0

    return run
