"""Shards as a data module: which are trained on, what they hold, and what is said where something is amiss."""

import json
import os
from typing import Any

import pytest
import torch

from datamodules import WebDataset
from datamodules.decode import decode
from datamodules.errors import UserError
from datamodules.shards import _opened
from tests.datamodules.tars import picture, sample, write_shards, write_tar
from tests.datamodules.toys import epoch

SMALL: Any = {"batch_size": 4, "eval_batch_size": 4, "image_size": 16, "num_workers": 0}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path):
    """Eleven training samples in three shards, five for validation in two, numbers as labels."""
    write_shards(tmp_path / "shards", [4, 1, 6])
    return write_shards(tmp_path / "shards", [2, 3], "val")


def names(source) -> list[str]:
    return [source.name(i).rpartition("/")[2] for i in range(len(source))]


def test_a_folder(shards):
    data = WebDataset(str(shards), **SMALL)
    data.prepare_data()
    batches = epoch(data)
    assert len(batches) == 2 and data.num_classes == 3 and data.class_names is None
    train, val = data.sources()
    assert names(train) == [f"train-{shard:06}.tar:{i:06}" for i, shard in enumerate([0] * 4 + [1] + [2] * 6)]
    assert train.labels.tolist() == [i % 3 for i in range(11)] and val.labels.tolist() == [0, 1, 2, 0, 1]
    assert torch.equal(batches[0].label, train.labels[batches[0].index])
    for i in (0, 4, 10):
        assert train.encoded(i) == picture(i)
        assert torch.equal(train.image(i), decode(picture(i), "x"))


def test_indices_are_made_once_and_before_the_processes_part(shards, capsys, caplog):
    WebDataset(str(shards)).prepare_data()
    assert len(list(shards.glob("*.index"))) == 5
    times = {file: file.stat().st_mtime_ns for file in shards.glob("*.index")}
    WebDataset(str(shards)).prepare_data()
    WebDataset(str(shards)).sources()
    assert {file: file.stat().st_mtime_ns for file in shards.glob("*.index")} == times


@pytest.mark.parametrize(
    ("path", "train", "val"),
    [
        ("{}/train-*.tar", 8, 3),
        ("{}/train-{{000000..000001}}.tar", 3, 2),
        ("{}/train-{{000000..000002}}.tar", 8, 3),
        ("{}/*.tar", 11, 5),
        ("{}/train-000002.tar", 3, 3),
        ("shards", 11, 5),
        ("shards/train-00000[02].tar", 7, 3),
    ],
)
def test_patterns_and_files(shards, path, train, val, monkeypatch):
    monkeypatch.setenv("PARALLAX_DATA", str(shards.parent))
    found = WebDataset(path.format(shards), val_fraction=0.3).sources()
    assert [len(source) for source in found] == [train, val]


def test_shards_in_folders_and_the_first_of_several_validation_splits(tmp_path):
    for folder, first in (("train", 0), ("test", 10), ("val", 20)):
        write_tar(tmp_path / "valentine" / folder / "0.tar", {str(first): sample(first, 0)})
    write_tar(tmp_path / "valentine" / ".train.part" / "1.tar", {"9": sample(9, 0)})  # hidden: not finished
    train, val = WebDataset(str(tmp_path / "valentine")).sources()
    assert names(train) == ["0.tar:0"] and names(val) == ["0.tar:20"]
    _, val = WebDataset(str(tmp_path / "valentine"), val_path=str(tmp_path / "valentine" / "test")).sources()
    assert names(val) == ["0.tar:10"]


def test_names_of_classes_are_numbered_alike_in_training_and_validation(tmp_path):
    write_tar(tmp_path / "train-0.tar", {str(i): sample(i, name) for i, name in enumerate(["fox", "ant", "bee"])})
    write_tar(tmp_path / "val-0.tar", {"9": sample(9, "fox"), "8": sample(8)})
    train, val = WebDataset(str(tmp_path)).sources()
    assert train.class_names == val.class_names == ["ant", "bee", "fox"]
    assert train.labels.tolist() == [2, 0, 1] and val.labels.tolist() == [2, -1]


def test_classes_of_a_file_beside_the_shards(shards):
    (shards / "classes.json").write_text('["cat", "dog", "newt", "elk"]')
    data = WebDataset(str(shards), **SMALL)
    data.setup("fit")
    assert data.class_names == ["cat", "dog", "newt", "elk"] and data.num_classes == 4
    write_tar(shards / "train-000003.tar", {"x": sample(1, "elk")})
    assert data.sources()[0].labels.tolist()[-1] == 3


def test_no_labels_at_all(tmp_path):
    write_tar(tmp_path / "train-0.tar", {str(i): sample(i) for i in range(20)})
    data = WebDataset(str(tmp_path), **SMALL)
    assert all((batch.label == -1).all() for batch in epoch(data)) and data.num_classes is None


def test_workers_change_nothing(shards):
    alone, helped = (epoch(WebDataset(str(shards), **(SMALL | {"cache": "none", "num_workers": n}))) for n in (0, 2))
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.global_views[0], b.global_views[0])


def test_evaluation_sees_every_sample_once(shards):
    data = WebDataset(str(shards), **(SMALL | {"num_workers": 2, "cache": "none"}))
    data.setup("fit")
    for split, size in (("train", 11), ("val", 5)):
        index = torch.cat([batch.index for batch in data.clean_batches(split, torch.device("cpu"))])
        assert sorted(index[index >= 0].tolist()) == list(range(size))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="tells of open files on Linux alone")
def test_more_shards_than_are_kept_open(tmp_path):
    _opened.cache_clear()  # of the tests before
    before = len(os.listdir("/proc/self/fd"))
    write_shards(tmp_path, [1] * 70)
    train, _ = WebDataset(str(tmp_path / "train-*.tar")).sources()
    for _ in range(2):
        assert all(train.encoded(i) for i in range(len(train)))
    assert len(os.listdir("/proc/self/fd")) <= before + 64


def test_damage_is_told_and_what_is_left_is_trained_on(shards, caplog):
    shard = shards / "train-000002.tar"
    os.truncate(shard, shard.stat().st_size // 2)
    data = WebDataset(str(shards), **SMALL)
    batches = epoch(data)
    assert 5 < data.num_train_images < 11 and len(batches) == data.num_train_images // 4
    assert caplog.messages[0].startswith(f"Skipped {shard} from byte ")
    caplog.clear()
    WebDataset(str(shards), **SMALL).setup("fit")  # the index is from a file by now
    assert caplog.messages[0].startswith(f"Skipped {shard} from byte ")
    with pytest.raises(UserError, match=r"train-000002.tar from byte \d+ on: .*Mend the shard, or set data.unreadable"):
        WebDataset(str(shards), unreadable="stop").setup("fit")


def test_a_picture_that_cannot_be_decoded_is_skipped_like_any_other(tmp_path, caplog):
    samples = {str(i): sample(i, 0) for i in range(8)} | {"3": {"png": picture(3)[:200], "cls": b"0"}}
    write_tar(tmp_path / "train-0.tar", samples)
    write_tar(tmp_path / "val-0.tar", {"0": sample(9, 0)})
    batches = epoch(WebDataset(str(tmp_path), **SMALL))
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == [0, 1, 2, 4, 4, 5, 6, 7]
    assert caplog.messages[0].startswith(f"Skipped {tmp_path}/train-0.tar:3: ")
    with pytest.raises(UserError, match=r"train-0.tar:3 cannot be read"):
        epoch(WebDataset(str(tmp_path), unreadable="stop", **SMALL))


def test_a_shard_without_samples_and_one_that_is_no_tar(shards, caplog):
    write_tar(shards / "train-000003.tar", {})
    (shards / "train-000004.tar").write_bytes(b"")
    assert len(WebDataset(str(shards)).sources()[0]) == 11
    assert caplog.messages == [f"Skipped {shards}/train-000004.tar: it cannot be read as a tar (empty file)."]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "s3://bucket/train-0.tar"}, r"data.path s3://bucket/train-0.tar is an address.*mount it \(mount-s3"),
        ({"path": "pipe:curl x"}, "is an address, and shards are read as files"),
        ({"val_path": "https://host/val.tar"}, "data.val_path https://host/val.tar is an address"),
        ({"path": "{}/nowhere"}, "There are no shards at .*nowhere, here or below PARALLAX_DATA: set data.path to"),
        ({"path": "{}/x-{{0..5}}.tar"}, "There are no shards at"),
        ({"path": "{}/train-{{000001..000004}}.tar"}, "2 of the shards .* are missing, the first .*train-000003.tar"),
        ({"path": "{}/val-*.tar"}, "No shard of .* is for training: the names of all have val in them"),
        ({"shuffle_shards": -1}, "data.shuffle_shards is -1"),
        ({"val_fraction": 1.0, "path": "{}/train-*.tar"}, "val_fraction is 1.0"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(shards, arguments, message):
    given: Any = {k: v.format(shards) if isinstance(v, str) else v for k, v in arguments.items()}
    with pytest.raises(UserError, match=message):
        WebDataset(**({"path": str(shards)} | given)).setup("fit")


@pytest.mark.parametrize("path", ["", "train-*.tar", "train-{{000000..000002}}.tar"])
def test_a_link_that_points_to_nothing_is_a_missing_shard(shards, path):
    shard = shards / "train-000001.tar"
    shard.unlink()
    shard.symlink_to(shards / "gone.tar")
    with pytest.raises(UserError, match=f"1 of the shards .* are missing, the first of them {shard}"):
        WebDataset(str(shards / path.format())).sources()


def test_compressed_shards_are_refused(shards):
    (shards / "train-000003.tar.gz").write_bytes(b"x")
    with pytest.raises(UserError, match="train-000003.tar.gz is compressed: unpack it to a plain tar"):
        WebDataset(str(shards)).setup("fit")


@pytest.mark.parametrize("content", ["[", "{}", "[]", "[1, 2]"])
def test_classes_that_are_no_list_of_names(shards, content):
    (shards / "classes.json").write_text(content)
    with pytest.raises(UserError, match="classes.json is no list of names"):
        WebDataset(str(shards)).setup("fit")


@pytest.mark.parametrize(
    ("classes", "labels", "val_labels", "message"),
    [
        (None, ["cat", 3], [], r"are numbers \(3\) and some are names \(cat\): put a classes.json"),
        (["cat", "dog"], ["cat", "cow"], [], r"The label cow in .* is none of the 2 classes .* names, cat, dog"),
        (["cat", "dog"], [0, 2], [], r"The label 2 in .* is none of the 2 classes"),
        (None, ["cat", "dog"], ["elk"], r"The label elk in .* is none of the 2 classes that training or"),
        (None, ["cat", "dog"], [1], None),
    ],
)
def test_labels_that_do_not_go_together(tmp_path, classes, labels, val_labels, message):
    write_tar(tmp_path / "train-0.tar", {str(i): sample(i, label) for i, label in enumerate(labels)})
    write_tar(tmp_path / "val-0.tar", {str(i): sample(i, label) for i, label in enumerate(val_labels)})
    if classes:
        (tmp_path / "classes.json").write_text(json.dumps(classes))
    if message is None:
        assert WebDataset(str(tmp_path)).sources()[1].labels.tolist() == [1]
        return
    with pytest.raises(UserError, match=message):
        WebDataset(str(tmp_path)).setup("fit")


def test_nothing_that_could_be_trained_on(tmp_path):
    write_tar(tmp_path / "train-0.tar", {"1": {"npy": b"x", "cls": b"0"}})
    with pytest.raises(
        UserError, match="hold no samples with a picture .*train-0.tar:1: it has no picture, only .cls, .npy"
    ):
        WebDataset(str(tmp_path)).setup("fit")
