"""Picture files in every arrangement, with and without labels, sound and broken."""

from typing import Any

import pytest
import torch

from datamodules import ImageFolder
from datamodules.errors import UserError
from tests.datamodules.toys import epoch, write_picture

SMALL: Any = {"batch_size": 4, "eval_batch_size": 4, "image_size": 16, "num_workers": 0}


@pytest.fixture
def classes(tmp_path):
    for name in ("cat", "dog"):
        for i in range(10):
            write_picture(tmp_path / name / f"{i}.{'jpg' if i % 2 else 'png'}", size=(20 + i, 18), seed=i)
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "dog" / "._0.jpg").write_bytes(b"a Mac leaves these")
    return tmp_path


def labels(source) -> list[int]:
    return source.labels.tolist()


def test_folders_of_classes(classes):
    data = ImageFolder(str(classes), val_fraction=0.3, **SMALL)
    train, val = data.sources()
    assert labels(train) == [0] * 7 + [1] * 7 and labels(val) == [0] * 3 + [1] * 3
    assert train.class_names == ["cat", "dog"]
    assert train.name(0).startswith(str(classes / "cat"))
    batches = epoch(data)
    assert len(batches) == 3 and data.num_classes == 2
    assert torch.equal(batches[0].label, train.labels[batches[0].index])
    assert batches[0].global_views[0].shape == (4, 3, 16, 16)
    assert sum(len(batch.index) for batch in data.clean_batches("val", torch.device("cpu"))) == 6


def test_train_and_val_below_the_root(tmp_path):
    write_picture(tmp_path / "train" / "cat" / "deep" / "1.jpg")
    write_picture(tmp_path / "train" / "dog" / "2.jpg")
    write_picture(tmp_path / "val" / "dog" / "3.jpg")
    train, val = ImageFolder(str(tmp_path)).sources()
    assert labels(train) == [0, 1] and labels(val) == [1]
    assert val.class_names == ["cat", "dog"]


def test_a_folder_for_validation(classes, tmp_path):
    write_picture(tmp_path / "other" / "dog" / "1.jpg")
    write_picture(tmp_path / "other" / "cat" / "1.jpg")
    train, val = ImageFolder(str(classes / "dog"), val_path=str(classes / "cat")).sources()
    assert len(train) == len(val) == 10 and labels(val) == [-1] * 10


def test_unlabelled_validation_beside_labelled_training(classes):
    train, val = ImageFolder(str(classes), val_path=str(classes / "cat")).sources()
    assert train.num_classes == 2 and labels(val) == [-1] * 10


def test_a_flat_folder_has_no_labels_and_trains(classes):
    data = ImageFolder(str(classes / "cat"), val_fraction=0.2, **SMALL)
    batches = epoch(data)
    assert data.num_classes is None and data.class_names is None
    assert all((batch.label == -1).all() for batch in batches)
    assert sum(len(batch.index) for batch in data.clean_batches("val", torch.device("cpu"))) == 2


def test_a_list_of_paths(classes):
    (classes / "list.txt").write_text("cat/0.png\tfeline\n\ndog/1.jpg\tcanine\ndog/2.png\n")
    (classes / "val.txt").write_text("dog/3.jpg\tcanine\n")
    train, val = ImageFolder(str(classes / "list.txt"), val_path=str(classes / "val.txt")).sources()
    assert labels(train) == [1, 0, -1] and labels(val) == [0]
    assert train.name(1) == str(classes / "dog" / "1.jpg")
    assert train.image(1).shape == (3, 18, 21)


def test_below_the_variable(classes, monkeypatch):
    monkeypatch.setenv("PARALLAX_DATA", str(classes.parent))
    assert len(ImageFolder(classes.name).sources()[0]) == 18


def test_broken_files_are_skipped_and_named(classes, caplog):
    (classes / "cat" / "1.jpg").write_bytes((classes / "cat" / "1.jpg").read_bytes()[:200])
    (classes / "dog" / "4.png").write_bytes(b"")
    write_picture(classes.parent / "val" / "1.jpg")
    data = ImageFolder(str(classes), val_path=str(classes.parent / "val"), **SMALL)
    assert len(epoch(data)) == 5
    assert {message.split(": ")[0] for message in caplog.messages} == {
        f"Skipped {classes / 'cat' / '1.jpg'}",
        f"Skipped {classes / 'dog' / '4.png'}",
    }


def test_broken_files_stop_the_run_if_asked(classes):
    (classes / "dog" / "4.png").write_bytes(b"")
    with pytest.raises(UserError, match="4.png cannot be read: it is empty"):
        epoch(ImageFolder(str(classes), val_path=str(classes / "cat"), unreadable="stop", **SMALL))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "nowhere"}, "There is no nowhere, here or below PARALLAX_DATA: set data.path"),
        ({"path": "{classes}", "val_path": "nowhere"}, "There is no nowhere.*data.val_path"),
        ({"path": "{classes}/empty"}, "There are no pictures in .*empty; known are files that end in .bmp"),
        ({"path": "{classes}", "val_path": "{classes}/foxes"}, "classes that the training pictures lack: fox"),
        ({"path": "{classes}", "cache": "ram"}, "cache ram needs images of one size, but .* is 2.x18 with 3 channels"),
        ({"path": "{classes}", "batch_size": 64}, "fewer than one batch of 64"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(classes, arguments, message):
    (classes / "empty").mkdir()
    for animal in ("fox", "dog"):
        write_picture(classes.parent / "wild" / animal / "1.jpg")
    (classes / "foxes").symlink_to(classes.parent / "wild")
    given: Any = {k: v.format(classes=classes) if isinstance(v, str) else v for k, v in arguments.items()}
    with pytest.raises(UserError, match=message):
        epoch(ImageFolder(**(SMALL | given)))
