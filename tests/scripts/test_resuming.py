"""What --ckpt_path comes to."""

import os

import pytest
import torch
import yaml

from datamodules.errors import UserError
from scripts.resuming import checkpoint_to_use

FLAGS = {"model": {"class_path": "SimCLR"}, "data": {"class_path": "Digits"}, "seed_everything": 0}


def write(path, age, cut=False, **changed):
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent.parent / "config.yaml").write_text(yaml.safe_dump(FLAGS | changed | {"trainer": {"max_epochs": age}}))
    torch.save({"epoch": age}, path)
    if cut:
        path.write_bytes(path.read_bytes()[:-50])
    os.utime(path, (age, age))
    return str(path)


@pytest.mark.parametrize("word", [None, "best", "last", "s3://bucket/last.ckpt"])
def test_words_of_lightnings_pass(word):
    assert checkpoint_to_use(word, "runs", FLAGS) == word


def test_auto_takes_the_newest_of_all_runs_or_starts_anew(tmp_path):
    assert checkpoint_to_use("auto", str(tmp_path / "none yet"), FLAGS) is None
    write(tmp_path / "version_0/checkpoints/last.ckpt", 1)
    newest = write(tmp_path / "version_1/checkpoints/last.ckpt", 2)
    assert checkpoint_to_use("auto", str(tmp_path), FLAGS) == newest


def test_one_that_is_cut_short_is_passed_over_with_a_word(tmp_path):
    before = write(tmp_path / "version_0/checkpoints/epoch=1.ckpt", 1)
    last = write(tmp_path / "version_0/checkpoints/last.ckpt", 2, cut=True)
    for given in ("auto", str(tmp_path), last):
        with pytest.warns(UserWarning, match="last.ckpt was not written to its end"):
            assert checkpoint_to_use(given, str(tmp_path), FLAGS) == before


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        checkpoint_to_use(str(tmp_path / "no.ckpt"), None, FLAGS)
    with pytest.raises(UserError, match="no complete checkpoint below"):
        checkpoint_to_use(str(tmp_path), None, FLAGS)
    alone = write(tmp_path / "half.ckpt", 1, cut=True)
    with pytest.raises(UserError, match="not written to its end: give another"):
        checkpoint_to_use(alone, None, FLAGS)


@pytest.mark.parametrize("changed", [{"model": {"class_path": "DCL"}}, {"seed_everything": 1}, {"data": None}], ids=str)
def test_auto_never_takes_another_methods_data_or_seed(tmp_path, changed):
    own = write(tmp_path / "version_0/checkpoints/last.ckpt", 1)
    other = write(tmp_path / "version_1/checkpoints/last.ckpt", 2, **changed)
    assert checkpoint_to_use("auto", str(tmp_path), FLAGS) == own
    assert checkpoint_to_use(str(tmp_path), None, FLAGS) == other  # a folder that was named


def test_auto_leaves_files_without_a_readable_configuration(tmp_path):
    for place, text in (("a", "model: ["), ("b", "- x")):
        write(tmp_path / place / "checkpoints/last.ckpt", 1)
        (tmp_path / place / "config.yaml").write_text(text)
    assert checkpoint_to_use("auto", str(tmp_path), FLAGS) is None
