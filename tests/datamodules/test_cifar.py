"""CIFAR from torchvision's files and from Parquet files; the real one where PARALLAX_DATA has it."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets

from datamodules import CIFAR10, CIFAR100
from datamodules.errors import UserError


def write_torchvision(root: Path) -> np.ndarray:
    """A small CIFAR-10 in torchvision's layout; returns the first batch's pixels [n, 3072]."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    first = None
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        first = pixels if first is None else first
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1, 2, 9]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    assert first is not None
    return first


def test_torchvisions_files(tmp_path, monkeypatch):
    pixels = write_torchvision(tmp_path)
    monkeypatch.setattr(torchvision_datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    data = CIFAR10(path=str(tmp_path), batch_size=4)
    data.setup("fit")
    train, val = data.sources()
    assert len(train) == 20 and len(val) == 4
    assert torch.equal(train.image(2), torch.from_numpy(pixels[2]).view(3, 32, 32))
    assert train.labels[:4].tolist() == [0, 1, 2, 9] and data.class_names == list("abcdefghij")


@pytest.mark.parametrize("folder", ["", "cifar100"])
def test_parquet_files(tmp_path, folder):
    hf = pytest.importorskip("datasets")
    hf.disable_progress_bars()
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (10, 20, 30)).save(buffer, "PNG")
    kinds = {"img": hf.Image(), "fine_label": hf.Value("int64"), "coarse_label": hf.Value("int64")}
    for split, rows in (("train", 3), ("test", 2)):
        columns = {"img": [{"bytes": buffer.getvalue(), "path": None}] * rows, "fine_label": [7] * rows}
        table = hf.Dataset.from_dict(columns | {"coarse_label": [1] * rows}, features=hf.Features(kinds))
        (tmp_path / folder).mkdir(exist_ok=True)
        table.to_parquet(tmp_path / folder / f"{split}-00000-of-00001.parquet")
    train, val = CIFAR100(path=str(tmp_path)).sources()
    assert train.labels.tolist() == [7, 7, 7] and len(val) == 2
    assert train.image(0)[:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("which", [CIFAR10, CIFAR100])
def test_missing_files_say_how_to_get_them(which, tmp_path):
    with pytest.raises(
        UserError, match=f"{which.__name__} is not in .*--data.download true.*--data.path.*PARALLAX_DATA"
    ):
        which(path=str(tmp_path)).setup("fit")


@pytest.mark.slow
def test_the_real_cifar10():
    if not os.environ.get("PARALLAX_DATA"):
        pytest.skip("PARALLAX_DATA is not set")
    data = CIFAR10()
    if not (data.path / "cifar10").is_dir():
        pytest.skip("PARALLAX_DATA has no folder cifar10")
    data.setup("fit")
    train, val = data.sources()
    assert len(train) == 50_000 and len(val) == 10_000
    assert train.labels.bincount().tolist() == [5000] * 10 and val.labels.bincount().tolist() == [1000] * 10
    images = torch.cat([b.global_views[0] for b in data.clean_batches("train", torch.device("cpu"), max_images=5000)])
    assert images.mean((0, 2, 3)).abs().max() < 0.02 and (images.std((0, 2, 3)) - 1).abs().max() < 0.02
