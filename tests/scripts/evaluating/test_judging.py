"""One command from a checkpoint to a table, and what it answers to mistakes."""

import json
from dataclasses import replace

import pytest
import torch

from datamodules import Digits
from methods import KNNEval
from methods.backbones import BackboneConfig, build_backbone
from scripts.evaluating import protocols, record
from scripts.evaluating.protocols import FINE_TUNING, KNN, LINEAR, Row
from scripts.evaluating.table import neighbours, percent
from tests.support.commands import ROOT, cli
from tests.support.digits_run import WIDTH
from tests.support.frozen import judge, write_checkpoint

SMALL = ("--data.max_train_images", "200", "--data.max_val_images", "60")
SMALL = ("--data.max_train_images", "200", "--data.max_val_images", "60")


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
