"""Parquet files in Hugging Face layout, written here."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import HFImages
from datamodules.errors import UserError
from tests.datamodules.toys import epoch

datasets = pytest.importorskip("datasets")

SMALL: Any = {"batch_size": 4, "eval_batch_size": 4, "image_size": 16, "num_workers": 0}


def picture(seed: int) -> dict:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (18, 20 + seed % 3, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{seed}.png"}


def write(path, num_rows: int, start: int = 0, **columns) -> None:
    rows = {"image": [picture(start + i) for i in range(num_rows)]} | columns
    features = {"image": datasets.Image()}
    for name, values in columns.items():
        features[name] = datasets.Value("string" if isinstance(values[0], str) else "int64")
        if name == "label":
            features[name] = datasets.ClassLabel(names=["cat", "dog"])
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(path)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    write(root / "data" / "train-00000-of-00002.parquet", 6, label=[0, 1, 0, 1, 0, 1])
    write(root / "data" / "train-00001-of-00002.parquet", 5, start=6, label=[1, 1, 1, 1, 0])
    write(root / "data" / "test-00000-of-00001.parquet", 3, start=11, label=[1, 0, 1])
    return root


def test_a_folder(folder):
    data = HFImages(str(folder), **SMALL)
    batches = epoch(data)
    assert data.num_classes == 2 and data.class_names == ["cat", "dog"]
    assert len(batches) == 2
    train, val = data.sources()
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0] and val.labels.tolist() == [1, 0, 1]
    assert torch.equal(batches[0].label, train.labels[batches[0].index])
    expected = torch.from_numpy(np.array(Image.open(io.BytesIO(picture(7)["bytes"])))).permute(2, 0, 1)
    assert torch.equal(train.image(7), expected)
    assert train.name(7) == f"{folder} train[7]"


def test_a_pattern_a_file_and_parts_of_a_split(folder, monkeypatch):
    pattern = str(folder / "data" / "train-*.parquet")
    train, val = HFImages(pattern, train_split="train[:8]", val_split="train[8:]").sources()
    assert len(train) == 8 and len(val) == 3 and val.labels.tolist() == [1, 1, 0]
    file = str(folder / "data" / "test-00000-of-00001.parquet")
    assert len(HFImages(file, train_split="test").sources()[0]) == 3
    monkeypatch.setenv("PARALLAX_DATA", str(folder.parent))
    assert len(HFImages("set").sources()[0]) == 11


def test_columns_of_other_names(tmp_path):
    write(tmp_path / "x" / "train.parquet", 4, kind=["fox", "ant", "fox", "bee"])
    data = HFImages(str(tmp_path / "x"), label_column="kind", val_split="train")
    assert data.sources()[0].class_names == ["ant", "bee", "fox"]
    assert data.sources()[0].labels.tolist() == [2, 0, 2, 1]


def test_validation_has_the_classes_of_training(tmp_path):
    write(tmp_path / "x" / "train.parquet", 4, kind=["fox", "ant", "fox", "bee"])
    write(tmp_path / "x" / "validation.parquet", 4, start=4, kind=["fox", "bee", "bee", "fox"])
    data = HFImages(str(tmp_path / "x"), label_column="kind", **SMALL)
    _, val = data.sources()
    assert val.labels.tolist() == [2, 1, 1, 2] and val.class_names == ["ant", "bee", "fox"]
    assert len(epoch(data)) == 1 and data.class_names == val.class_names


def test_no_labels_at_all(tmp_path):
    write(tmp_path / "x" / "train.parquet", 8)
    data = HFImages(str(tmp_path / "x"), val_split="train", **SMALL)
    assert all((batch.label == -1).all() for batch in epoch(data)) and data.num_classes is None


def test_broken_rows_are_named(tmp_path, caplog):
    rows = [picture(i) for i in range(8)]
    rows[5]["bytes"] = rows[5]["bytes"][:100]
    features = datasets.Features({"image": datasets.Image()})
    (tmp_path / "x").mkdir()
    datasets.Dataset.from_dict({"image": rows}, features=features).to_parquet(tmp_path / "x" / "train.parquet")
    assert len(epoch(HFImages(str(tmp_path / "x"), val_split="train", **SMALL))) == 2
    assert caplog.messages[0].startswith(f"Skipped {tmp_path / 'x'} train[5]: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"label_column": "breed"},
            "does not have breed; its columns are image, label. Name one.*label_column",
        ),
        (
            {"image_column": "photo"},
            "does not have photo; its columns are image, label. Name one.*image_column",
        ),
        ({"train_split": "training"}, "has no split training, only test, train: see data.train_split"),
        ({"path": "{folder}/data/train-*.parquet"}, r"no split for validation, only train: name one.*train\[:90%\]"),
        ({"path": "{folder}/empty"}, "There are no Parquet files in .*empty; for picture files use --data ImageFolder"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(folder, arguments, message):
    (folder / "empty").mkdir()
    given: Any = {k: v.format(folder=folder) for k, v in arguments.items()}
    with pytest.raises(UserError, match=message):
        HFImages(**({"path": str(folder)} | given)).setup("fit")


def test_validation_of_a_class_that_training_lacks(tmp_path):
    write(tmp_path / "x" / "train.parquet", 4, kind=["fox", "ant", "fox", "ant"])
    write(tmp_path / "x" / "validation.parquet", 2, start=4, kind=["fox", "bee"])
    with pytest.raises(UserError, match="x validation has classes that the training pictures lack: bee. Training and"):
        HFImages(str(tmp_path / "x"), label_column="kind").sources()


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        UserError, match=r"nobody/pictures is neither a local folder .* \(Couldn't reach the Hub\): see data.path"
    ):
        HFImages("nobody/pictures", val_split="test").setup("fit")
