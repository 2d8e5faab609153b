"""What finding duplicates by thumbnails finds: copies that were changed, and pictures of CIFAR-10 that repeat another.

    python scripts/benchmark/duplicates.py --photos FOLDER --cifar10 FOLDER --out results/duplicates-cpu.json

FOLDER holds Parquet files, of photos of 128 px (Imagenette's, say) and of CIFAR-10.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere
from datamodules import CIFAR10, HFImages, ImageDataModule
from datamodules.augment import CleanView
from datamodules.sources import Subset
from scripts.benchmark.report import write_report
from scripts.checkup.duplicates import find, thumbnails

THRESHOLD = 0.97  # of scripts/find_duplicates.py


def jpeg(picture: Image.Image) -> Image.Image:
    """Written and read again with quality 30."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def trimmed(share: float) -> Callable[[Image.Image], Image.Image]:
    """That share of its side cut off each side."""

    def trim(picture: Image.Image) -> Image.Image:
        across, down = round(share * picture.width), round(share * picture.height)
        return picture.crop((across, down, picture.width - across, picture.height - down))

    return trim


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 30": jpeg,
    "half the size": lambda picture: ImageOps.scale(picture, 0.5),
    "0.7 times as bright": lambda picture: ImageEnhance.Brightness(picture).enhance(0.7),
    "turned grey": lambda picture: ImageOps.grayscale(picture).convert("RGB"),
    "1 % cut off each side": trimmed(0.01),
    "2 % cut off each side": trimmed(0.02),
    "5 % cut off each side": trimmed(0.05),
    "mirrored": ImageOps.mirror,
}


def described(pictures: list[Image.Image], view: CleanView) -> Tensor:
    """[N, 256] of unit norm: the thumbnails by which pictures are compared."""
    tensors = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]
    return F.normalize(thumbnails(torch.cat([view(view.crop(one)[None]) for one in tensors])), dim=1)


def copies(data: ImageDataModule, count: int) -> dict[str, object]:
    """Of pictures spread over a training set, how many are found after a change, and how alike two others can be."""
    view, (source, _) = CleanView(data.image_size, [0.0] * 3, [1.0] * 3), data.sources()
    rows = np.linspace(0, len(source) - 1, count).astype(int).tolist()
    pictures = [Image.fromarray(source.image(row).permute(1, 2, 0).numpy()) for row in rows]
    originals = described(pictures, view)
    others = originals @ originals.T - 2 * torch.eye(count)
    found = {
        name: ((described([change(p) for p in pictures], view) * originals).sum(1) >= THRESHOLD).double().mean().item()
        for name, change in CHANGES.items()
    }
    return {"pictures": count, "view": data.image_size, "most_alike": others.max().item(), "found": found}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", required=True, help="folder of photos of 128 px in Parquet files")
    parser.add_argument("--cifar10", required=True, help="folder of CIFAR-10")
    parser.add_argument("--count", type=int, default=300, help="photos that are changed")
    parser.add_argument("--images", type=int, default=50_000, help="images of CIFAR-10 that are compared")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    o = parser.parse_args(arguments)
    torch.set_num_threads(1)
    changed = copies(HFImages(o.photos), o.count)
    source = Subset(CIFAR10(o.cifar10).sources()[0], np.arange(o.images))
    started = time.perf_counter()
    found = find(source, CleanView(32, [0.0] * 3, [1.0] * 3), None, THRESHOLD, "first")
    repeated = {"images": len(source), "repeated": len(found.repeated), "seconds": time.perf_counter() - started}
    print(f"{changed}\n{repeated}")
    if o.out:
        what = f"share of changed copies whose thumbnail has a cosine of {THRESHOLD} or more with the picture's; pairs"
        write_report(o.out, packages=("torch", "pillow"), what=f"{what} of CIFAR-10", copies=changed, cifar10=repeated)


if __name__ == "__main__":
    main()
