"""What --ckpt_path comes to, and what may go on from it."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

from datamodules.errors import UserError
from scripts.resuming import check_kept, checkpoint_to_use, is_finished
from scripts.same_settings import first_difference
from tests.support.checkpoints import FLAGS, write

RUNS = Path("runs")


@pytest.mark.parametrize("given", [None, "s3://bucket/last.ckpt"])
def test_nothing_and_addresses_pass(given):
    assert checkpoint_to_use(given, RUNS, FLAGS) == given


@pytest.mark.parametrize("word", ["best", "last", "hpc"])
def test_words_of_lightnings_are_refused_since_a_new_folder_has_none(word):
    with pytest.raises(UserError, match=f"--ckpt_path {word}: every run has a folder of its own"):
        checkpoint_to_use(word, RUNS, FLAGS)


def test_auto_takes_the_newest_of_all_runs_or_starts_anew(tmp_path):
    assert checkpoint_to_use("auto", tmp_path / "none yet", FLAGS) is None
    write(tmp_path / "version_0/checkpoints/last.ckpt", 1)
    newest = write(tmp_path / "version_1/checkpoints/last.ckpt", 2)
    assert checkpoint_to_use("auto", tmp_path, FLAGS) == newest


def test_one_that_is_cut_short_is_passed_over_with_a_word(tmp_path):
    before = write(tmp_path / "version_0/checkpoints/epoch=1.ckpt", 1)
    last = write(tmp_path / "version_0/checkpoints/last.ckpt", 2, cut=True)
    for given in ("auto", str(tmp_path), last):
        with pytest.warns(UserWarning, match="last.ckpt was not written to its end"):
            assert checkpoint_to_use(given, tmp_path, FLAGS) == before


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        checkpoint_to_use(str(tmp_path / "no.ckpt"), RUNS, FLAGS)
    with pytest.raises(UserError, match="no complete checkpoint below"):
        checkpoint_to_use(str(tmp_path), RUNS, FLAGS)
    alone = write(tmp_path / "half.ckpt", 1, cut=True)
    with pytest.raises(UserError, match="not written to its end: give another"):
        checkpoint_to_use(alone, RUNS, FLAGS)


@pytest.mark.parametrize("changed", [{"model": {"class_path": "DCL"}}, {"seed_everything": 1}, {"data": None}], ids=str)
def test_auto_never_takes_another_methods_data_or_seed(tmp_path, changed):
    own = write(tmp_path / "version_0/checkpoints/last.ckpt", 1)
    other = write(tmp_path / "version_1/checkpoints/last.ckpt", 2, **changed)
    assert checkpoint_to_use("auto", tmp_path, FLAGS) == own
    assert checkpoint_to_use(str(tmp_path), RUNS, FLAGS) == other  # a folder that was named


def test_auto_leaves_files_without_a_readable_configuration(tmp_path):
    for place, text in (("a", "model: ["), ("b", "- x"), ("c", "other: 1")):
        write(tmp_path / place / "checkpoints/last.ckpt", 1)
        (tmp_path / place / "config.yaml").write_text(text)
    assert checkpoint_to_use("auto", tmp_path, FLAGS) is None


FULL = {
    "model": {"class_path": "SimCLR", "init_args": {"temperature": 0.1, "optim": {"lr": 1, "options": {}}}},
    "data": {"class_path": "Digits", "init_args": {"num_workers": 2, "views": [{"size": 20}, {"size": 10}]}},
    "seed_everything": 0,
    "trainer": {"precision": None, "gradient_clip_val": 1.0, "devices": 1, "max_epochs": 10},
}


def with_value(place, value):
    """The settings with one of them changed, or one more."""
    *above, name = place.split("/")
    settings = section = deepcopy(FULL)
    for key in above:
        section = section[int(key) if key.isdigit() else key]
    section[name] = value
    return settings


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("model/class_path", "DCL", "--model SimCLR, not DCL"),
        ("model/init_args/temperature", 0.2, "--model.temperature 0.1, not 0.2"),
        ("model/init_args/optim/options", {"nesterov": True}, "--model.optim.options {}, not {'nesterov': True}"),
        ("data/init_args/views/1/size", 12, "--data.views[1].size 10, not 12"),
        ("data/init_args/views", [], "--data.views [{'size': 20}, {'size': 10}], not []"),
        ("seed_everything", 1, "--seed_everything 0, not 1"),
        ("trainer/precision", "bf16-mixed", "--trainer.precision null, not bf16-mixed"),
        ("trainer/gradient_clip_val", None, "--trainer.gradient_clip_val 1.0, not null"),
    ],
)
def test_auto_starts_anew_where_something_else_is_trained_and_says_what(tmp_path, caplog, place, value, told):
    write(tmp_path / "version_0/checkpoints/last.ckpt", 1, **with_value("seed_everything", 7))
    write(tmp_path / "version_1/checkpoints/last.ckpt", 2, **FULL)
    with caplog.at_level("INFO"):
        assert checkpoint_to_use("auto", tmp_path, with_value(place, value)) is None
    newest = tmp_path / "version_1"
    assert f"settings below {tmp_path}: the newest, {newest}, has {told}. Starting anew." in caplog.text


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("data/init_args/num_workers", 0),
        ("trainer/devices", 2),
        ("trainer/max_epochs", 20),
        ("model/init_args/new", 1),  # an argument that the run was not yet asked for
        ("trainer/accumulate_grad_batches", 2),
    ],
)
def test_auto_goes_on_where_no_setting_of_both_trains_something_else(tmp_path, place, value):
    last = write(tmp_path / "version_0/checkpoints/last.ckpt", 1, **FULL)
    assert checkpoint_to_use("auto", tmp_path, with_value(place, value)) == last


def test_a_long_value_is_cut_short_in_the_difference():
    told = first_difference({"names": [f"name {i}" for i in range(99)]}, {"names": []})
    assert told is not None
    assert told.endswith("..., not []")
    assert len(told) < 90


PLAN = {"epochs": 10, "max_steps": -1, "steps_per_epoch": 20, "batch": 8}


def at(folder, processed, step, plan=PLAN, seconds=0):
    state = {
        "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": processed}}}},
        "callbacks": {"Timer": {"time_elapsed": {"train": seconds}}} if seconds else {},
        "global_step": step,
    }
    torch.save(state | ({"plan": plan} if plan else {}), folder / "last.ckpt")
    return str(folder / "last.ckpt")


def limits(**given):
    return Namespace({"max_epochs": 10, "max_steps": -1, "max_time": None, "fast_dev_run": False} | given)


@pytest.mark.parametrize(
    ("processed", "step", "given", "done"),
    [
        (10, 200, {}, True),
        (9, 200, {}, False),  # its last validation is still to come
        (9, 199, {}, False),
        (10, 200, {"max_steps": 200}, True),
        (9, 200, {"max_epochs": -1, "max_steps": 200}, True),  # as many steps as planned, counted
        (10, 200, {"max_epochs": 20, "fast_dev_run": True}, False),
    ],
)
def test_a_finished_run_is_told_by_its_plan(tmp_path, processed, step, given, done):
    assert is_finished(at(tmp_path, processed, step), limits(**given), extend=False) is done


@pytest.mark.parametrize(
    ("max_time", "done"),
    [("00:00:01:40", True), ("00:00:01:41", False), ({"minutes": 1}, True), (None, False)],
    ids=str,
)
def test_a_run_is_finished_when_its_time_is_up(tmp_path, max_time, done, caplog):
    path = at(tmp_path, 2, 40, PLAN | {"epochs": -1}, seconds=100)
    with caplog.at_level("INFO"):
        assert is_finished(path, limits(max_epochs=None if max_time else -1, max_time=max_time), extend=False) is done
    assert (f"{path} has trained for --trainer.max_time {max_time}: nothing is left to do." in caplog.text) == done


def test_a_clock_that_no_checkpoint_knows_has_not_run(tmp_path):
    assert not is_finished(at(tmp_path, 2, 40), limits(max_time="00:00:00:01"), extend=False)


@pytest.mark.parametrize("given", [{"max_epochs": 20}, {"max_steps": 100}, {"max_epochs": None}], ids=str)
def test_another_length_needs_extend(tmp_path, given):
    path = at(tmp_path, 2, 40)
    with pytest.raises(UserError, match="planned for 10 epochs, 200 steps, and these flags make it"):
        is_finished(path, limits(**given), extend=False)
    assert not is_finished(path, limits(**given), extend=True)


def test_it_cannot_end_before_where_it_is(tmp_path):
    with pytest.raises(
        UserError, match="is at step 100 already, and these flags end the run after 5 epochs, 100 steps"
    ):
        is_finished(at(tmp_path, 5, 100), limits(max_epochs=5), extend=True)


def test_a_checkpoint_that_tells_no_plan_is_never_finished(tmp_path):
    assert not is_finished(at(tmp_path, 10, 200, plan=None), limits(max_epochs=3), extend=False)


def test_settings_of_the_optimiser_are_refused_with_both_values():
    given = Namespace(optim=Namespace(lr=0.1, weight_decay=0.0, warmup_epochs=3))
    check_kept("last.ckpt", {"model.optim.warmup_epochs": 5}, given)  # the schedule's, which is made anew
    with pytest.raises(
        UserError, match=r"--model.optim.lr 0.1 given, 0.2 there; --model.optim.weight_decay 0.0 given, 1"
    ):
        check_kept("last.ckpt", {"model.optim.weight_decay": 1, "model.optim.lr": 0.2}, given)
