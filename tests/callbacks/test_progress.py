import io
import time
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from callbacks import pace as pace_module
from callbacks.pace import Pace, TimeLeft, clock, images_in, share_of_run
from callbacks.progress import ProgressBar
from tests.callbacks.toy_run import BlobData, ToyModule, ToyMonitor, toy_trainer


@pytest.fixture
def now(monkeypatch):
    """A clock that moves when told."""
    state = SimpleNamespace(time=1000.0)
    monkeypatch.setattr(pace_module.time, "perf_counter", lambda: state.time)
    return state


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 100 columns whose output can be read."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr("callbacks.progress.get_console", lambda: console)
    return console


def fit(tmp_path, bar, epochs=3, monitor=None, ckpt_path=None, **arguments):
    trainer = toy_trainer(tmp_path, [monitor or ToyMonitor(), bar], epochs=epochs, **arguments)
    trainer.fit(ToyModule(), datamodule=BlobData(96), ckpt_path=ckpt_path)
    return trainer


def test_pace_leaves_out_the_first_batch_and_validation(now):
    pace = Pace()
    now.time += 50  # compiling
    pace.count(256)
    assert pace.rate is None
    for _ in range(4):
        now.time += 2
        pace.count(100)
    pace.pause()
    now.time += 1000  # validation
    pace.resume()
    now.time += 2
    pace.count(100)
    assert pace.images == 500
    assert pace.rate == pytest.approx(50)


def test_pace_ignores_a_validation_before_the_first_batch(now):
    pace = Pace()
    pace.pause()
    pace.resume()
    now.time += 100
    assert pace.elapsed == 0


def test_recent_rate_follows_a_change_of_speed(now):
    pace = Pace()
    pace.count(1)
    for images in [100] * 40 + [10] * 40:
        now.time += 1
        pace.count(images)
        rate = pace.recent_rate()
    assert rate == pytest.approx(10)
    assert pace.rate == pytest.approx(55)


def test_time_left_comes_from_this_process_own_speed(now):
    left = TimeLeft()
    left.start(0.6)  # resumed at 60 % of the run
    left.start(0.9)
    assert left.estimate(0.6) is None
    now.time += 30
    assert left.estimate(0.7) == pytest.approx(90)
    assert left.estimate(1.0) == 0
    assert left.estimate(None) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (11220, "3 h 07 min"),
        (190_000, "2 d 04 h"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_images_in_a_step():
    assert images_in({"loss": 1, "index": torch.zeros(7)}) == 7
    assert images_in({"loss": 1}) == images_in(None) == images_in(torch.zeros(3)) == 0


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_epochs": 4}, 0.5),
        ({"max_epochs": 4, "max_steps": 16}, 0.75),  # the steps end it first
        ({"max_epochs": -1, "max_steps": 24}, 0.5),
        ({"max_epochs": -1}, None),
    ],
)
def test_share_of_run(limits, expected):
    trainer = SimpleNamespace(
        **{"max_steps": -1, "num_training_batches": 6, "global_step": 12, "current_epoch": 2} | limits,
        fit_loop=SimpleNamespace(total_batch_idx=11),
    )
    assert share_of_run(trainer) == expected


def test_share_of_run_of_a_stream_without_length_goes_by_whole_epochs():
    trainer = SimpleNamespace(max_epochs=4, max_steps=-1, num_training_batches=float("inf"), current_epoch=1)
    assert share_of_run(trainer) == 0.25


def test_without_a_terminal_there_is_one_line_for_each_validation(tmp_path, capsys):
    fit(tmp_path, ProgressBar())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split("  ")[:2] for line in lines] == [
        ["epoch 1/3", "step 6"],
        ["epoch 2/3", "step 12"],
        ["epoch 3/3", "step 18"],
    ]
    for part in ("loss 0.", "probe ", "kNN ", "images/s", " left"):
        assert part in lines[-1]
    assert "0 s left" in lines[-1]


def test_a_run_without_an_end_shows_no_time_left(tmp_path, capsys):
    class Stop(ToyMonitor):
        def on_validation_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 1

    fit(tmp_path, ProgressBar(), epochs=-1, monitor=Stop())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert lines[0].startswith("epoch 1  ")
    assert "left" not in "".join(lines)


def test_the_terminal_shows_one_bar_that_ends_full(tmp_path, terminal):
    trainer = fit(tmp_path, ProgressBar(refresh_seconds=0))
    text = terminal.file.getvalue()
    assert "epoch 1/3" in text
    assert "17%" in text  # three of 18 batches
    last = text[text.rindex("epoch 3/3") :]
    assert "100%" in last
    assert f"kNN {trainer.callback_metrics['knn/val_top1']:.1%}" in last


def test_a_terminal_of_80_columns_holds_every_line(tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80)
    monkeypatch.setattr("callbacks.progress.get_console", lambda: console)
    fit(tmp_path, ProgressBar(refresh_seconds=0))
    lines = [line for line in console.file.getvalue().splitlines() if "loss" in line]
    assert lines
    assert all("images/s" in line for line in lines[1:-1] if "kNN" in line)


def test_metrics_are_read_at_a_bounded_rate(tmp_path, terminal, monkeypatch):
    bar = ProgressBar(refresh_seconds=3600)
    bar._drawn = time.perf_counter()
    read = []
    monkeypatch.setattr(bar, "_values", lambda: read.append(1) or [])
    fit(tmp_path, bar)
    assert len(read) == 3 + 1  # after each validation, and at the end


def test_other_ranks_and_disabled_bars_are_silent(tmp_path, capsys, terminal):
    bar = ProgressBar(refresh_seconds=0)
    bar.disable()
    fit(tmp_path, bar)
    bar.print("not shown")
    assert "epoch" not in capsys.readouterr().out + terminal.file.getvalue()
    bar.enable()
    bar.print("shown")
    assert capsys.readouterr().out == "shown\n"


def test_evaluation_alone_shows_its_batches_and_leaves_nothing_behind(tmp_path, terminal):
    bar = ProgressBar(refresh_seconds=0)
    trainer = toy_trainer(tmp_path, [bar])
    for evaluate, word in ((trainer.validate, "validation 6/6"), (trainer.test, "test 6/6")):
        evaluate(ToyModule(), datamodule=BlobData(96), verbose=False)
        assert word in terminal.file.getvalue()
        assert bar._live is None


def test_the_terminal_is_given_back_after_an_error(tmp_path, terminal):
    class Fail(ToyMonitor):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 8:
                raise RuntimeError("broken")

    bar = ProgressBar(refresh_seconds=0)
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, bar, monitor=Fail())
    assert bar._live is None


def test_a_resumed_run_goes_on_where_it_was(tmp_path, capsys):
    trainer = fit(tmp_path, ProgressBar(), epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    capsys.readouterr()
    fit(tmp_path / "more", ProgressBar(), epochs=4, ckpt_path=tmp_path / "half.ckpt")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 3/4", "epoch 4/4"]
