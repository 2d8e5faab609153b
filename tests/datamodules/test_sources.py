"""Subsets, hold-outs, labels, and where data lie."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from datamodules.errors import UserError
from datamodules.sources import Subset, encode_labels, find, hold_out, renumbered, subset_rows
from tests.datamodules.toys import BadSource, pixels


def test_a_subset_renumbers():
    whole = BadSource(pixels(6), set())
    subset = Subset(whole, np.array([5, 1]))
    assert len(subset) == 2 and subset.labels.tolist() == [2, 1]
    assert torch.equal(subset.image(0), whole.image(5)) and subset.name(0) == "picture 5"
    assert subset.num_classes == 3


def test_a_fixed_subset_is_random_but_always_the_same():
    rows = subset_rows(1000, 100)
    assert np.array_equal(rows, subset_rows(1000, 100)) and len(np.unique(rows)) == 100
    assert 400 < rows.mean() < 600
    assert np.array_equal(subset_rows(5, None), np.arange(5)) and np.array_equal(subset_rows(5, 9), np.arange(5))


def test_the_hold_out_takes_its_share_of_each_class():
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] + [-1] * 20)
    train, val = hold_out(labels, 0.2)
    assert sorted([*train, *val]) == list(range(81))
    assert labels[val].add(1).bincount().tolist() == [4, 10, 2]  # one of one stays in training
    assert np.array_equal(val, hold_out(labels, 0.2)[1])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_hold_out_of_all_or_nothing(fraction):
    with pytest.raises(UserError, match="val_fraction"):
        hold_out(torch.zeros(5), fraction)


def test_a_hold_out_needs_one_class_an_image():
    with pytest.raises(UserError, match=r"The labels to divide are a tensor \[5, 2\] of int64; allowed is"):
        hold_out(torch.zeros(5, 2, dtype=torch.int64), 0.2)


def test_labels_of_all_kinds():
    labels, names = encode_labels(["dog", None, "cat", "dog"])
    assert labels.tolist() == [1, -1, 0, 1] and names == ["cat", "dog"]
    labels, names = encode_labels([3, None, 0])
    assert labels.tolist() == [3, -1, 0] and names is None


def test_validation_is_numbered_by_the_classes_of_training():
    labels = torch.tensor([1, -1, 0])
    assert renumbered(labels, ["cat", "dog"], ["ant", "cat", "dog"], "v").tolist() == [2, -1, 1]
    assert renumbered(labels, ["dog", "cat", "fox"], ["cat", "dog"], "v").tolist() == [0, -1, 1]  # no image of a fox
    assert renumbered(labels, None, ["cat", "dog"], "v") is labels
    with pytest.raises(UserError, match="^v has classes that the training pictures lack: dog. "):
        renumbered(labels, ["cat", "dog"], ["cat"], "v")


def test_number_of_classes():
    source = BadSource(pixels(2), set())
    source.class_names = None
    source.labels = torch.tensor([4, -1])
    assert source.num_classes == 5
    source.labels = torch.tensor([-1, -1])
    assert source.num_classes is None


def test_data_are_sought_as_given_and_below_the_variable(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    monkeypatch.delenv("PARALLAX_DATA", raising=False)
    assert find("pictures") is None
    assert find(str(tmp_path / "pictures")) == tmp_path / "pictures"
    monkeypatch.setenv("PARALLAX_DATA", str(tmp_path))
    assert find("pictures") == tmp_path / "pictures"


@pytest.mark.slow
def test_the_package_is_light_to_import():
    code = "import sys, datamodules; print([m for m in ('sklearn', 'datasets', 'timm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
