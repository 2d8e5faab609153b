"""Label shares: balanced, nested, the same for ever; and the images held out to choose settings by."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import CIFAR10
from datamodules.errors import UserError
from datamodules.labels import draw_labelled
from datamodules.sources import data_root
from tests.datamodules.toys import Toy, epoch

ROOT = Path(__file__).parents[2]
LISTS = sorted((ROOT / "configs/eval/labels").glob("*.txt"))
LABELS = torch.arange(1000) % 7
GOLDEN = [15, 59, 96, 144, 209, 317, 336, 397, 401, 419, 511, 517, 528, 715, 740, 772, 847, 865, 879, 897, 969]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
def test_every_class_gives_the_same_share(fraction):
    rows = draw_labelled(LABELS, fraction, seed=0)
    counts = LABELS[torch.from_numpy(rows)].bincount(minlength=7)
    assert counts.tolist() == [max(1, round(fraction * n)) for n in LABELS.bincount().tolist()]
    assert (np.diff(rows) > 0).all()


def test_smaller_shares_lie_within_larger_ones_and_seeds_differ():
    small, large, other = (draw_labelled(LABELS, f, seed) for f, seed in ((0.05, 3), (0.2, 3), (0.05, 4)))
    assert set(small) < set(large)
    assert set(small) != set(other)


def test_the_draw_is_the_one_that_was_published():
    """Golden rows: another result would make every number that stands behind a seed a number of other images."""
    assert draw_labelled(LABELS, 0.02, seed=0).tolist() == GOLDEN


def test_each_image_is_as_likely():
    taken = np.zeros(60)
    for seed in range(400):
        taken[draw_labelled(torch.zeros(60, dtype=torch.int64), 0.25, seed)] += 1
    assert abs(taken / 400 - 0.25).max() < 4.5 * (0.25 * 0.75 / 400) ** 0.5


def test_images_without_a_label_are_never_drawn_and_rare_classes_keep_one():
    labels = torch.tensor([-1] * 50 + [0] * 40 + [1] * 2)
    assert labels[torch.from_numpy(draw_labelled(labels, 0.1, 0))].tolist() == [0] * 4 + [1]
    assert len(draw_labelled(labels, 1.0, 0)) == 42


def test_refusals():
    with pytest.raises(UserError, match="label_fraction is 1.5"):
        draw_labelled(LABELS, 1.5, 0)
    with pytest.raises(UserError, match="no labels"):
        draw_labelled(torch.full((5,), -1), 0.1, 0)
    with pytest.raises(UserError, match="held_out is 1.0"):
        Toy(held_out=1.0).setup("fit")


def test_a_data_module_trains_on_the_share_alone():
    whole, part = Toy(num_images=300), Toy(num_images=300, label_fraction=0.1, label_seed=2)
    batches = epoch(part)
    rows = draw_labelled(torch.arange(300) % 3, 0.1, 2)
    assert part.num_train_images == 30 and part.train_labels.tolist() == (rows % 3).tolist()
    assert sum(len(batch.label) for batch in batches) == 24  # whole batches of 8
    bank = [views.index for views in part.clean_batches("train", torch.device("cpu"))]
    assert torch.cat(bank).tolist() == list(range(30))  # what kNN and linear evaluation see of it
    whole.setup("fit")
    wanted = whole._splits.sources["train"]
    (batch,) = list(part.clean_batches("train", torch.device("cpu"), raw=True))[:1]
    pixels = wanted.image(int(rows[0])) / 255
    torch.testing.assert_close(batch.global_views[0][0], pixels)


def test_the_share_is_one_of_the_images_that_a_limit_leaves():
    data = Toy(num_images=300, max_train_images=60, label_fraction=0.1)
    limited = Toy(num_images=300, max_train_images=60)
    for module in (data, limited):
        module.setup("fit")
    assert data.num_train_images == sum(max(1, round(0.1 * n)) for n in limited.train_labels.bincount().tolist())
    assert set(data._splits.sources["train"].rows) < set(limited._splits.sources["train"].rows)


def test_held_out_images_replace_the_validation_images():
    data, usual = Toy(num_images=90, held_out=0.2), Toy(num_images=90)
    for module in (data, usual):
        module.setup("fit")
    train, val = (data._splits.sources[name] for name in ("train", "val"))
    assert sorted([*train.rows, *val.rows]) == list(range(90))
    assert val.labels.bincount().tolist() == [6] * 3
    assert torch.equal(val.image(0), usual._splits.sources["train"].image(int(val.rows[0])))
    few = Toy(num_images=90, held_out=0.2, max_val_images=5)
    few.setup("fit")
    assert set(few._splits.sources["val"].rows) < set(val.rows) and few.num_train_images == 72


@pytest.mark.parametrize("file", LISTS, ids=lambda path: path.stem)
def test_published_lists_are_balanced_and_nested(file):
    rows = read(file)
    percent = int(file.stem.split("_")[1].removesuffix("pct"))
    assert len(rows) == 500 * percent and len(set(rows)) == len(rows) and max(rows) < 50_000
    if percent == 1:
        assert set(rows) < set(read(file.with_name(file.name.replace("_1pct", "_10pct"))))


def read(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().splitlines() if not line.startswith("#")]


def test_published_lists_are_what_the_function_draws():
    root = data_root()
    if root is None or not (root / "cifar10").is_dir():
        pytest.skip("PARALLAX_DATA names no folder with CIFAR-10")
    labels = CIFAR10().sources()[0].labels
    assert len(LISTS) == 6
    for file in LISTS:
        _, percent, seed = file.stem.split("_")
        drawn = draw_labelled(labels, int(percent.removesuffix("pct")) / 100, int(seed.removeprefix("seed")))
        assert drawn.tolist() == read(file), file.name
        assert len(set(labels[torch.from_numpy(drawn)].bincount().tolist())) == 1
