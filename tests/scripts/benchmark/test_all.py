"""The one command for all measurements: what it would run exists, and a limit in time ends it."""

import json
import sys
from pathlib import Path

import pytest

from scripts.benchmark import all as everything
from tests.support.commands import ROOT


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_measurement_is_a_script_with_flags_that_it_knows(device, tmp_path):
    for name, (script, *flags) in everything.commands(device, "images", tmp_path).items():
        source = (ROOT / script).read_text() + (ROOT / "scripts" / "benchmark" / "turns.py").read_text()
        own = flags[: flags.index("--")] if "--" in flags else flags
        for flag in (flag for flag in own if flag.startswith("--")):
            assert f'"{flag}"' in source, (name, flag)


def test_every_file_of_results_has_its_measurement():
    names = {f"benchmark-{name}-cpu.json" for name in everything.commands("cpu", None, Path())}
    assert names == {path.name for path in (ROOT / "results").glob("benchmark-*-cpu.json")}


def test_one_measurement_by_name(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(everything.CPU, "mae", f"mae.py {everything.SMALL_VIT} --batch-size 2 --rounds 1")
    everything.main(["--only", "mae", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "benchmark-mae-cpu.json").read_text())["rounds"] == 1
    assert "--- mae ended with status 0" in capfd.readouterr().out


def test_what_runs_out_of_time_is_stopped():
    assert everything.ended(["-c", "import time; time.sleep(60)"], 0.2) == "ran out of time"
    assert everything.ended(["-c", "raise SystemExit(3)"], None) == "ended with status 3"


def test_an_unknown_name_is_answered_with_the_known_ones(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["all.py"])
    with pytest.raises(SystemExit, match="2"):
        everything.main(["--only", "viewz"])
    assert "--only viewz: on cpu there are fit, views, peers-resnet18" in capsys.readouterr().err
