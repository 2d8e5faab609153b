"""Where the checkpoints are that a run may go on from, while other runs write and remove theirs."""

import os
from pathlib import Path

import pytest

import scripts.resuming
from datamodules.errors import UserError
from scripts.resuming import checkpoint_to_use
from scripts.run_folders import checkpoints_below, folder_of_runs
from tests.support.checkpoints import FLAGS, alone, write

CSV = "pytorch_lightning.loggers.CSVLogger"
SAVER = "pytorch_lightning.callbacks.ModelCheckpoint"


def with_trainer(**trainer):
    return FLAGS | {"trainer": trainer}


def test_an_address_is_no_folder_of_runs():
    assert folder_of_runs(None) == Path("runs")
    assert folder_of_runs("there") == Path("there")
    with pytest.raises(UserError, match="--trainer.default_root_dir s3://bucket/runs is an address, .* mount it"):
        folder_of_runs("s3://bucket/runs")


@pytest.mark.parametrize("below", ["lightning_logs/version_0", "version_0", "project/x7k2"])
def test_auto_finds_what_a_logger_of_the_user_s_own_leads_to(tmp_path, below):
    flags = with_trainer(logger=[{"class_path": CSV, "init_args": {"save_dir": str(tmp_path / "logs")}}])
    alone(tmp_path / "logs" / below / "checkpoints/other.ckpt", 2, settings=FLAGS | {"seed_everything": 1})
    last = alone(tmp_path / "logs" / below / "checkpoints/last.ckpt", 1)
    assert checkpoint_to_use("auto", tmp_path / "runs", flags) == last


def test_auto_looks_no_deeper_into_a_logger_s_folder_than_runs_lie(tmp_path):
    alone(tmp_path / "data/other/project/version_0/checkpoints/last.ckpt", 1)
    flags = with_trainer(logger={"class_path": CSV, "init_args": {"save_dir": str(tmp_path)}})
    assert checkpoint_to_use("auto", tmp_path / "runs", flags) is None


@pytest.mark.parametrize("root", ["runs", "."])
def test_auto_finds_what_a_modelcheckpoint_was_told_to_write_elsewhere(tmp_path, root):
    flags = with_trainer(
        logger=True,
        callbacks=[{"class_path": "KNN"}, {"class_path": SAVER, "init_args": {"dirpath": str(tmp_path / "kept")}}],
    )
    (tmp_path / "config.yaml").write_text("{model: 1, data: 2}")  # anybody's
    last = alone(tmp_path / "kept/last.ckpt", 1)
    alone(tmp_path / "kept/older.ckpt", 2, settings=None)
    alone(tmp_path / "kept/half.ckpt", 3, cut=True)
    assert checkpoint_to_use("auto", tmp_path / root, flags) == last


@pytest.mark.parametrize(
    "trainer",
    [
        {"logger": {"class_path": CSV, "init_args": {"save_dir": "s3://bucket/runs"}}},
        {"callbacks": [{"class_path": SAVER, "init_args": {"dirpath": "s3://bucket/runs"}}]},
    ],
    ids=["logger", "callback"],
)
def test_auto_says_that_it_cannot_look_into_remote_storage(tmp_path, trainer):
    with pytest.raises(UserError, match="auto looks for checkpoints in folders, and s3://bucket/runs is an address"):
        checkpoint_to_use("auto", tmp_path, with_trainer(**trainer))
    last = write(tmp_path / "version_0/checkpoints/last.ckpt", 1)
    assert checkpoint_to_use(last, tmp_path, with_trainer(**trainer)) == last


@pytest.mark.parametrize("given", ["auto", "folder", "file"])
def test_what_other_runs_remove_meanwhile_is_passed_over(tmp_path, given, monkeypatch):
    before = write(tmp_path / "version_0/checkpoints/last.ckpt", 1)
    cut = write(tmp_path / "version_0/checkpoints/half.ckpt", 2, cut=True)
    (tmp_path / "version_0/checkpoints/link.ckpt").symlink_to("nowhere.ckpt")
    # Gone once they are listed, with nothing left in their place.
    real = os.walk
    monkeypatch.setattr(
        "os.walk", lambda folder: [*real(folder), (str(tmp_path / "version_1/checkpoints"), [], ["last.ckpt"])]
    )
    with pytest.warns(UserWarning, match="half.ckpt was not written to its end"):
        path = {"auto": "auto", "folder": str(tmp_path), "file": cut}[given]
        assert checkpoint_to_use(path, tmp_path, FLAGS) == before


def test_a_folder_that_goes_while_it_is_searched_is_passed_over(tmp_path):
    write(tmp_path / "version_0/checkpoints/last.ckpt", 1)
    write(tmp_path / "version_1/checkpoints/last.ckpt", 1)
    found = checkpoints_below(tmp_path)
    first = next(found)
    (other,) = (run for run in tmp_path.iterdir() if run not in first.parents)
    for file in (other / "checkpoints/last.ckpt", other / "config.yaml"):
        file.unlink()
    (other / "checkpoints").rmdir()
    other.rmdir()
    assert list(found) == []


def test_only_the_runs_down_to_the_one_that_matches_are_read_and_each_once(tmp_path, monkeypatch):
    for age in range(1, 6):
        write(tmp_path / f"version_{age}/checkpoints/epoch.ckpt", age, seed_everything=age)
        write(tmp_path / f"version_{age}/checkpoints/last.ckpt", age, seed_everything=age)
    read, real = [], scripts.resuming.settings_of_run
    monkeypatch.setattr(scripts.resuming, "settings_of_run", lambda run: read.append(run.name) or real(run))
    flags = FLAGS | {"seed_everything": 4}
    assert "version_4" in str(checkpoint_to_use("auto", tmp_path, flags))
    assert read == ["version_5", "version_4"]


def test_where_there_has_to_be_one_auto_says_what_the_newest_differs_in(tmp_path):
    with pytest.raises(UserError, match=f"auto: no checkpoint of these settings below {tmp_path}. Give a file's path."):
        checkpoint_to_use("auto", tmp_path, FLAGS, may_start_anew=False)
    last = write(tmp_path / "version_0/checkpoints/last.ckpt", 1)
    assert checkpoint_to_use("auto", tmp_path, FLAGS, may_start_anew=False) == last
    told = f"below {tmp_path}: the newest, {tmp_path}/version_0, has --seed_everything 0, not 1. Give a file's path."
    with pytest.raises(UserError, match=told):
        checkpoint_to_use("auto", tmp_path, FLAGS | {"seed_everything": 1}, may_start_anew=False)
