import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from callbacks.history import Curve, History
from callbacks.summary import Summary, newest_checkpoint, resume_command


def text_of(summary):
    console = Console(width=200, file=io.StringIO())
    console.print(summary.render())
    return console.file.getvalue()


def test_curve_thins_out_evenly_and_keeps_first_and_newest():
    curve = Curve(limit=100)
    for step in range(1001):
        curve.add(step, step // 10, 2.0 * step)
    step, epoch, value = curve.points()
    assert len(step) <= 101
    assert step[0] == 0 and step[-1] == 1000
    assert {b - a for a, b in zip(step[:-2], step[1:-1], strict=True)} == {curve.stride}
    assert value == [2.0 * s for s in step] and epoch == [s // 10 for s in step]


def test_curve_takes_the_later_value_of_a_step_that_is_logged_twice():
    curve = Curve()
    for step, value in ((0, 1.0), (5, 2.0), (5, 3.0), (6, 4.0)):
        curve.add(step, 0, value)
    assert curve.points() == ([0, 5, 6], [0, 0, 0], [1.0, 3.0, 4.0])


def test_history_goes_on_from_its_state():
    first = History()
    for step in range(3):
        first.log_metrics({"train/loss": 3.0 - step, "epoch": 0}, step)
    state = json.loads(json.dumps(first.state_dict()))  # plain types only
    first.log_metrics({"train/loss": 99.0, "epoch": 0}, 3)  # after the checkpoint: never happened for the resumed run
    second = History()
    second.load_state_dict(state | {"images": 640, "train_seconds": 10.0, "wall_seconds": 100.0})
    second.log_metrics({"train/loss": 0.5, "epoch": 1}, 3)
    assert second.curves["train/loss"].points()[2] == [3.0, 2.0, 1.0, 0.5]
    assert second.pace.rate == pytest.approx(64)
    assert second.wall_seconds == pytest.approx(100, abs=1)


def test_history_keeps_hyperparameters_and_no_epoch_curve():
    history = History()
    history.log_hyperparams({"lr": 0.1})
    history.log_metrics({"a": 1.0, "epoch": 3}, 7)
    assert history.hparams == {"lr": 0.1}
    assert list(history.curves) == ["a"] and history.latest("a") == 1.0 and history.latest("b") is None


def test_the_table_shows_what_training_added():
    text = text_of(Summary(360, 20, knn_top1=0.9, untrained_top1=0.57, pixels_top1=0.933, images_per_second=1234.5))
    assert "Finished after 20 epochs, 360 steps" in text
    assert "90.0%" in text and "+33.0 points" in text and "-3.3 points" in text and "1,234 " in text


def test_accuracies_of_an_earlier_step_say_so():
    early = text_of(Summary(10, 3, measured_step=8, knn_top1=0.9, probe_top1=0.8))
    assert early.count("after 8 steps") == 2
    assert "after 10 steps" not in text_of(Summary(10, 3, measured_step=10, knn_top1=0.9))
    history = History()
    assert history.steps_before("knn/val_top1") is None
    history.log_metrics({"knn/val_top1": 0.5}, 7)
    assert history.steps_before("knn/val_top1", "probe/val_top1") == 8


def test_what_was_not_measured_is_not_shown():
    text = text_of(Summary(1, 1))
    assert "Finished after 1 epoch, 1 steps, 0 s." in text
    assert not any(word in text for word in ("kNN", "probe", "None", "Report", "images"))


def test_an_interrupted_run_says_how_to_go_on():
    stopped = Summary(5, 1, stopped_by="KeyboardInterrupt", resume="python cli.py fit --ckpt_path last.ckpt")
    assert "Go on with: python cli.py fit --ckpt_path last.ckpt" in text_of(stopped)
    assert "no checkpoint to go on from" in text_of(Summary(5, 1, stopped_by="KeyboardInterrupt"))


def test_json_has_no_word_for_nan(tmp_path):
    path = tmp_path / "summary.json"
    Summary(1, 1, knn_top1=0.5, metrics={"train/loss": float("nan"), "a": 1.0}).write(path)
    read = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert read["knn_top1"] == 0.5 and read["metrics"] == {"train/loss": None, "a": 1.0}


@pytest.mark.parametrize("given", [["--ckpt_path", "old.ckpt"], ["--ckpt_path=old.ckpt"], []])
def test_resume_command_repeats_the_command(monkeypatch, given):
    monkeypatch.setattr("sys.argv", ["cli.py", "fit", *given, "--config", "my config.yaml"])
    expected = "python cli.py fit --config 'my config.yaml' --ckpt_path runs/last.ckpt"
    assert resume_command(Path("runs/last.ckpt")) == expected


def test_newest_checkpoint_is_the_one_written_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, name in ((50, "best.ckpt"), (10, "last.ckpt")):
        (tmp_path / name).touch()
        os.utime(name, (1e9 - age, 1e9 - age))
    callbacks = [
        SimpleNamespace(best_model_path=str(tmp_path / "best.ckpt"), last_model_path=str(tmp_path / "last.ckpt"))
    ]
    assert newest_checkpoint(SimpleNamespace(checkpoint_callbacks=callbacks)) == Path("last.ckpt")
    gone = [SimpleNamespace(best_model_path=str(tmp_path / "gone.ckpt"), last_model_path="")]
    assert newest_checkpoint(SimpleNamespace(checkpoint_callbacks=gone)) is None
