"""One command from a checkpoint to a table, and what it answers to mistakes."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datamodules import Digits
from methods import KNNEval
from methods.backbones import BackboneConfig, build_backbone
from scripts import evaluate
from scripts.evaluating import protocols, record
from scripts.evaluating.protocols import FINE_TUNING, KNN, LINEAR, Row
from scripts.evaluating.table import neighbours, percent
from tests.support.commands import ROOT, cli
from tests.support.digits_run import WIDTH
from tests.support.frozen import judge, write_checkpoint

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


def test_a_run_is_judged_on_its_own_data(command, run_folder):
    checkpoint = run_folder / "checkpoints" / "last.ckpt"
    code, told, errors = command(checkpoint, "--suite", "quick")
    assert code == 0, errors
    want = judge(KNNEval(str(checkpoint)), Digits())
    assert "step 22, backbone: loaded 24 of 24 tensors" in " ".join(told.split())
    assert "Digits: 1,438 training and 359 validation images of 28 px, 10 classes" in " ".join(told.split())
    for name in ("pixels_top1", "untrained_top1", "top1", "top5", "top1_k200_t0.1"):
        assert percent(want[f"knn/{name}"]) in told, name
    assert "cosine kNN, k 20, weighted by exp(s/0.07), fixed beforehand" in told
    (kept,) = json.loads((run_folder / "evaluation.json").read_text())
    (row,) = kept["rows"]
    assert row["accuracies"]["top1"] == pytest.approx(want["knn/top1"]) and "bank: 1,438 clean" in row["protocol"]
    assert row["commit"] and row["hardware"]["torch"] and row["seconds"] > 0
    assert kept["network"]["config"]["options"] == {"width": WIDTH} and kept["data"]["mean"] == [0.0767]
    assert kept["checkpoint"] == "run/checkpoints/last.ckpt"


def test_all_protocols_several_seeds_and_a_name(command, run_folder, tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(record, "ROOT", tmp_path)
    short = [replace(protocol, epochs=1) for protocol in FINE_TUNING]
    monkeypatch.setitem(protocols.SUITES, "full", (KNN, LINEAR, short[0], short[2]))
    checkpoint = run_folder / "checkpoints" / "last.ckpt"
    code, told, errors = command(checkpoint, "--suite", "full", "--seeds", 0, 1, "--name", "mine", *SMALL)
    assert code == 0, errors
    assert "Written: results/mine.json" in told and not (run_folder / "evaluation.json").exists()
    rows = json.loads((tmp_path / "results" / "mine.json").read_text())["rows"]
    titles = [row["title"] for row in rows]
    assert titles == ["kNN", "Linear", "Fine-tuned", "Fine-tuned, 1 % of the labels"]
    assert [row["seeds"] for row in rows] == [[], [0, 1], [0, 1], [0, 1]]
    for row in rows:
        assert set(row["accuracies"]) == {"top1", "top5", "mean_per_class"} and row["protocol"] in _flat(rows, told)
        assert set(row["deviations"]) == (set() if row["title"] == "kNN" else set(row["accuracies"]))
        assert percent(row["accuracies"]["top1"], row["deviations"].get("top1")) in told
    assert "1 epochs of 200 images" in rows[2]["protocol"] and "1 epochs of 10 images" in rows[3]["protocol"]


def _flat(rows: list[dict], told: str) -> str:
    """The table without its lines and line breaks."""
    return " ".join(told.replace("│", " ").split())


def test_other_data_is_shown_as_the_network_knows_images(command, run_folder):
    flags = ("--suite", "quick", "--data", "Digits", "--data.canvas_size", "24", *SMALL)
    file = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    file["images"] |= {"image_size": 32, "mean": [0.1]}
    torch.save(file, run_folder / "checkpoints" / "other.ckpt")
    code, told, errors = command(run_folder / "checkpoints" / "other.ckpt", *flags)
    assert code == 0, errors
    flat = " ".join(told.split())
    assert "Images of Digits as the network was trained on: image_size 32, mean [0.1] (for others" in flat
    assert "200 training and 60 validation images of 32 px" in flat
    code, told, _ = command(run_folder / "checkpoints" / "other.ckpt", *flags, "--data.image_size", 20)
    assert code == 0 and "of 20 px" in " ".join(told.split())
    results = json.loads((run_folder / "evaluation.json").read_text())
    assert [one["data"]["image_size"] for one in results] == [32, 20], "none replaces the other"


def test_a_file_of_no_run_is_judged_on_data_of_the_flags_and_not_kept(command, tmp_path):
    torch.manual_seed(0)
    network = build_backbone(BackboneConfig("convnet", in_channels=1, options={"width": 4}))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "plain.pth")
    shape = ("--backbone.name", "convnet", "--backbone.in_channels", "1", "--backbone.options", "{width: 4}")
    flags = ("--suite", "quick", "--data", "Digits", *SMALL)
    code, told, errors = command("plain.pth", *shape, *flags)
    assert code == 0, errors
    assert "Not kept" in told and not list(tmp_path.glob("*.json"))
    code, _, errors = command("plain.pth", *shape[:-1], "{width: 5}", *flags)
    assert code == 2 and errors.count("\n") == 1 and "does not fit the network convnet" in errors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("nowhere.ckpt", "--data", "Digits"), "nowhere.ckpt: there is no such file"),
        (("made.ckpt",), "On which images? made.ckpt lies in no run folder"),
        (("made.ckpt", "--data", "Digits"), "The images of Digits have 1 channel(s), the network was trained on 3"),
        (("made.ckpt", "--suite", "all"), "--suite all is none of quick, standard, full"),
        (("made.ckpt", "--seeds", "1", "1"), "--seeds 1 1: the same seed twice"),
        (("made.ckpt", "--seeds", "-1"), "--seeds -1: a seed is a whole number from 0"),
        (("made.ckpt", "--precision", "7"), "--accelerator cpu --precision 7 cannot be used here: "),
        (("made.ckpt", "--name", "a/b"), "--name 'a/b' becomes a file of results/"),
        (("made.ckpt", "--part", "teacher", "--data", "Digits"), "made.ckpt: SimCLR has no teacher"),
        (("made.ckpt", "--part", "head"), "--part head is none of backbone, teacher"),
        (("made.ckpt", "--sute", "quick"), "'sute' is no option. Did you mean 'suite'?"),
        (("made.ckpt", "--data.path", "x"), "--data.path needs its class first"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_be_mended_is_said_in_a_sentence(flags, message, command, tmp_path):
    write_checkpoint(tmp_path)
    code, _, errors = command(*flags)
    assert code == 2 and errors.startswith(f"error: {message}") and errors.count("\n") == 1


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


def test_a_config_whose_data_is_not_known_here_is_told_in_a_sentence(command, run_folder):
    (run_folder / "config.yaml").write_text("data: {class_path: their.package.Data, init_args: {size: 3}}")
    code, _, errors = command(run_folder / "checkpoints" / "last.ckpt")
    assert code == 2 and "in a class that can be imported here: give --data NAME" in errors and errors.count("\n") == 1


def test_flags_of_the_data_change_the_run_s(command, run_folder):
    checkpoint = run_folder / "checkpoints" / "last.ckpt"
    code, _, errors = command(checkpoint, "--suite", "quick", "--data.canvs_size", "18")
    assert code == 2 and "'canvs_size' is no option of Digits. Did you mean 'canvas_size'?" in errors


def test_numbers_as_they_are_shown():
    assert (percent(None), percent(0.93456), percent(0.5, 0.0123)) == ("", "93.46", "50.00 ± 1.23")
    assert neighbours([Row("kNN", {}, {}, [], "", 0.0, {"top1_k5_t0.1": 0.5})]) is None


@pytest.mark.process
@pytest.mark.parametrize("name", ["knn", "linear"])
def test_the_configs_judge_through_the_main_command(name, digits_checkpoint, tmp_path):
    config = ROOT / "configs" / "eval" / f"{name}.yaml"
    flags = ("--config", str(config), "--model.pretrained", str(digits_checkpoint), "--trainer.accelerator", "cpu")
    done = cli("validate", *flags, "--data", "Digits", *SMALL, folder=tmp_path)
    assert done.code == 0, done.text
    assert f"{name}/top1" in done.text and "backbone: loaded 24 of 24 tensors." in done.text
    assert ("bank: 200 clean" if name == "knn" else "35 pairs chosen on 10% of training") in done.text
    refused = cli("fit", *flags, "--data", "Digits", *SMALL, "--trainer.fast_dev_run", "true", folder=tmp_path)
    assert refused.code == 2 and "judges a trained network: run cli.py validate, not fit." in refused.text


@pytest.mark.process
def test_the_main_command_knows_the_protocols_by_name(tmp_path):
    done = cli("validate", "--model", "LinerEval", "--data", "Digits", folder=tmp_path)
    assert done.code == 2 and "Did you mean 'LinearEval'?" in done.text
    done = cli("validate", "--model", "KNNEval", "--data", "Digits", folder=tmp_path)
    assert done.code == 2 and "--model.pretrained missing: KNNEval needs it." in done.text
