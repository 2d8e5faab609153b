"""The one command for all measurements: each is one that its script takes, and a limit in time ends it."""

import argparse
import json
import runpy
import sys
from pathlib import Path

import pytest

from scripts.benchmark import all as everything
from tests.support.commands import ROOT


class ParsedError(Exception):
    """A script has come as far as its flags."""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_measurement_has_flags_that_its_script_takes(device, tmp_path, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def no_further(parser, arguments=None):
        parse(parser, arguments)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", no_further)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for script, *flags in everything.commands(device, "images", tmp_path).values():
        monkeypatch.setattr(sys, "argv", [script, *flags])
        with pytest.raises(ParsedError):
            runpy.run_path(str(ROOT / script), run_name="__main__")


def test_every_file_of_results_has_its_measurement():
    names = {f"benchmark-{name}-cpu.json" for name in everything.commands("cpu", None, Path())}
    assert names == {path.name for path in (ROOT / "results").glob("benchmark-*-cpu.json")}


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        everything.main([*map(str, arguments)])
    return stopped.value.code


def test_one_measurement_by_name(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(everything.CPU, "mae", f"mae.py {everything.SMALL_VIT} --batch-size 2 --rounds 1")
    assert run("--only", "mae", "--out", tmp_path) == 0
    assert json.loads((tmp_path / "benchmark-mae-cpu.json").read_text())["rounds"] == 1
    assert "--- mae ended with status 0" in capfd.readouterr().out


def test_what_runs_out_of_time_is_stopped(tmp_path, capfd):
    assert everything.ended(["-c", "import time; time.sleep(60)"], 0.2) == "ran out of time"
    assert everything.ended(["-c", "raise SystemExit(3)"], None) == "ended with status 3"
    assert run("--seconds", 0, "--out", tmp_path) == 1
    assert capfd.readouterr().out.count("not begun, out of time") == len(everything.CPU)


def test_an_unknown_name_is_answered_with_the_known_ones(capsys):
    assert run("--only", "viewz") == 2
    assert "--only viewz: on cpu there are fit, views, peers-resnet18" in capsys.readouterr().err
