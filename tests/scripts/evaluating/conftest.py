"""The command under test, and a run to judge."""

import shutil
import sys
from pathlib import Path

import pytest

from scripts import evaluate

SMALL = ("--data.max_train_images", "200", "--data.max_val_images", "60")


@pytest.fixture
def run_folder(digits_checkpoint, tmp_path) -> Path:
    """A copy of a complete run, to be written to."""
    return Path(shutil.copytree(digits_checkpoint.parents[1], tmp_path / "run"))


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs the script in a folder of its own; returns exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*flags: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, flags), "--accelerator", "cpu"])
        monkeypatch.setattr(sys, "path", list(sys.path))
        code = 0
        try:
            evaluate.main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call
