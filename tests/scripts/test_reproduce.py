"""A configuration and what it came to, as a file."""

import json
import sys

import pytest

from scripts import reproduce

SMALL = {"--data.max_train_images": "64", "--data.max_val_images": "32", "--trainer.max_epochs": "1"}
SMALL |= {"--trainer.check_val_every_n_epoch": "1"}


def test_a_run_and_its_figures(tmp_path, monkeypatch):
    """The flags as they stand in the script's own examples: behind the name."""
    flags = [word for pair in SMALL.items() for word in pair] + ["--data.batch_size", "16", "--data.path", "secret"]
    ran = []

    def without_path(command):
        ran.append(command)
        return run(command[:-4] + command[-2:])  # digits take no path

    run = reproduce.run_to_its_end
    monkeypatch.setattr(reproduce, "run_to_its_end", without_path)
    reproduce.main(["configs/quickstart.yaml", "--name", str(tmp_path / "mine"), "--", *flags])
    found = json.loads((tmp_path / "mine.json").read_text())
    assert ran[0][2:6] == ["fit", "--config", "configs/quickstart.yaml", "--data.max_train_images"]
    assert found["flags"] == flags[:-2] and "secret" not in json.dumps(found)
    assert found["summary"]["step"] == 4 and len(found["curve"]) == 1 and found["commit"]


def test_flags_of_the_run_without_the_sign_are_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "configs/quickstart.yaml", "--name", "x", "--data.path", "y"])
    with pytest.raises(SystemExit, match="2"):
        reproduce.main()
    assert "[-- flags of cli.py]" in capsys.readouterr().err
