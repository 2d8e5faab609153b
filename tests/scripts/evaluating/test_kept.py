"""What one command after the other leaves in a run's folder."""

import json
from pathlib import Path

import pytest

from scripts import evaluate
from scripts.evaluating import record
from scripts.evaluating.protocols import FINE_TUNING, KNN, Row

SMALL = ("--data.max_train_images", "200", "--data.max_val_images", "60")


def fake_run(monkeypatch: pytest.MonkeyPatch, stop_at: str | None = None) -> list[str]:
    """Protocols that take no time; their titles as they are carried out. One of them is stopped by the user."""
    ran = []

    def run(protocol, network, make_data, seeds, hardware):
        make_data().setup("validate")
        ran.append(protocol.title)
        if protocol.title == stop_at:
            raise KeyboardInterrupt
        return Row(protocol.title, {"top1": 0.5}, {}, [] if protocol is KNN else list(seeds), "as told", 0.1)

    monkeypatch.setattr(evaluate, "run", run)
    return ran


def kept(folder: Path) -> list[tuple[float | None, list[str]]]:
    """Label share and titles of each result that a run's folder holds."""
    found = json.loads((folder / "evaluation.json").read_text())
    return [(one["data"]["label_fraction"], [row["title"] for row in one["rows"]]) for one in found]


def test_a_short_suite_takes_nothing_from_a_long_one(command, run_folder, monkeypatch):
    fake_run(monkeypatch)
    checkpoint = run_folder / "checkpoints" / "last.ckpt"
    for flags in (("--suite", "full"), ("--suite", "quick"), ("--data.label_fraction", 0.1), ("--seeds", 1)):
        code, _, errors = command(checkpoint, *flags)
        assert code == 0, errors
    full = ["kNN", "Linear", *(protocol.title for protocol in FINE_TUNING)]
    assert kept(run_folder) == [(None, [*full, "Linear"]), (0.1, ["kNN", "Linear"])]


def test_what_was_measured_before_a_stop_is_kept_and_shown(command, run_folder, monkeypatch):
    fake_run(monkeypatch, stop_at="Linear")
    code, told, _ = command(run_folder / "checkpoints" / "last.ckpt")
    assert code and kept(run_folder) == [(None, ["kNN"])] and "50.00" in told


def test_a_place_that_cannot_be_written_is_told_before_anything_runs(command, run_folder, monkeypatch, tmp_path):
    ran, checkpoint = fake_run(monkeypatch), run_folder / "checkpoints" / "last.ckpt"
    monkeypatch.setattr(record, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.json").write_text("[]")
    code, _, errors = command(checkpoint, "--name", "mine")
    assert code == 2 and errors.startswith("error: results/mine.json is there already: add --overwrite") and not ran
    for damaged in ('[{"rows"', '{"Digits, backbone": {}}', '[{"rows": [1]}]'):
        (run_folder / "evaluation.json").write_text(damaged)
        code, _, errors = command(checkpoint)
        assert code == 2 and "is no list of results as this command writes it" in errors and not ran
    monkeypatch.setattr(record.os, "access", lambda *_: False)  # a superuser may write to every folder
    code, _, errors = command(checkpoint)
    assert code == 2 and "cannot be written: give --name NAME" in errors and not ran
    monkeypatch.undo()


def test_a_name_is_replaced_where_that_is_asked_for(command, run_folder, monkeypatch, tmp_path):
    fake_run(monkeypatch)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    for suite in ("standard", "quick"):
        flags = ("--name", "mine", "--overwrite", "--suite", suite)
        assert command(run_folder / "checkpoints" / "last.ckpt", *flags)[0] == 0
    assert [row["title"] for row in json.loads((tmp_path / "results" / "mine.json").read_text())["rows"]] == ["kNN"]


@pytest.mark.parametrize(
    "content",
    [
        "data: {name: theirs}",
        "data: [1, 2]",
        "- a list",
        "data: {class_path: 3}",
        "data: {class_path: Digits, init_args: 3}",
        "a: [",
        "data: !!python/name:os.system",
    ],
)
def test_another_program_s_config_is_none_of_a_run(content, command, run_folder, monkeypatch):
    fake_run(monkeypatch)
    (run_folder / "config.yaml").write_text(content)
    checkpoint = run_folder / "checkpoints" / "last.ckpt"
    code, _, errors = command(checkpoint)
    assert code == 2 and "lies in no run folder with a config.yaml that says so" in errors
    code, told, errors = command(checkpoint, "--data", "Digits")
    assert code == 0 and "Not kept" in told, errors
    assert not (run_folder / "evaluation.json").exists()
