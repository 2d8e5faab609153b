"""Stands in for every data set: CIFAR in Hugging Face's Parquet layout, and class folders."""

import io
from pathlib import Path

import torch
from PIL import Image

from tests.support.methods import images


def picture(seed: int, size: int) -> bytes:
    pixels = torch.nn.functional.interpolate(images(1, seed).float(), size)[0].byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_data(root: Path) -> Path:
    """Fills an empty folder; returns it."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=[str(c) for c in range(10)])})
    for split in ("train", "test"):
        rows = {
            "image": [{"bytes": picture(i, 32), "path": None} for i in range(20)],
            "label": [i % 10 for i in range(20)],
        }
        (root / "cifar10").mkdir(exist_ok=True)
        Dataset.from_dict(rows, features=features).to_parquet(root / "cifar10" / f"{split}-00000-of-00001.parquet")
    for split in ("train", "val"):
        for i in range(16):
            folder = root / "folders" / split / f"class_{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.png").write_bytes(picture(i, 64))
    return root
