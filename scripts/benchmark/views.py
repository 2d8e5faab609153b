"""How many images a second one CPU core augments, against lightly, side by side in one run.

    python scripts/benchmark/views.py
    python scripts/benchmark/views.py --path photos/ --out results/benchmark-views-cpu.json

Ours and lightly's pipeline take turns for several rounds on the same images, each on one thread, in CPU time. The table
shows the medians over the rounds, and the smallest and largest ratio. `--path` is a folder of images or a Parquet file
with a column `image`; without it the images are noise with the spectrum of photographs. Needs lightly.
"""

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from lightly.transforms.simclr_transform import SimCLRTransform
from lightly.transforms.swav_transform import SwaVTransform
from PIL import Image
from torch import Tensor
from torchvision.io import decode_image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere
from datamodules.augment import Augment, ViewSpec, recipe
from scripts.benchmark.report import write_report

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL, SMALL_BATCH = 32, 256
PHOTO_SIZE, PHOTOS = (500, 375), 48  # width and height: the usual ImageNet photo


@dataclass
class Result:
    """Images a second of one case: medians over the rounds, and the ratio's spread."""

    case: str
    ours: float
    lightly: float
    ratio: float
    ratio_min: float
    ratio_max: float


Case = tuple[str, int, Callable[[], object], Callable[[], object]]  # name, images, our way, lightly's way


def compare(case: Case, rounds: int) -> Result:
    """Lets both take turns, after one round each to warm up."""
    name, images, *ways = case
    rates: list[list[float]] = []
    for _ in range(rounds + 1):
        rates.append([])
        for way in ways:
            start = time.process_time()
            way()
            rates[-1].append(images / (time.process_time() - start))
    ours, theirs = zip(*rates[1:], strict=True)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    median = statistics.median
    return Result(name, median(ours), median(theirs), median(ratios), min(ratios), max(ratios))


def small_cases(photos: list[Image.Image]) -> Iterator[Case]:
    """Whole batches of 32 pixel images: batched from uint8 tensors, against PIL images one by one."""
    pictures = [photo.resize((SMALL, SMALL), Image.Resampling.LANCZOS) for photo in photos]
    pictures = (pictures * SMALL_BATCH)[:SMALL_BATCH]
    images = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])

    def batched(specs: list[ViewSpec]) -> Callable[[], object]:
        augment = Augment(specs, MEAN, STD, seed=0)
        return lambda: augment(images, augment.draw(0, torch.arange(SMALL_BATCH), (SMALL, SMALL)))

    def one_by_one(transform: Callable) -> Callable[[], object]:
        return lambda: [transform(picture) for picture in pictures]

    # lightly's defaults: strength 1, bilinear, and PIL's blur, which reaches about as far as 13 taps
    (spec,) = [replace(spec, interpolation="bilinear") for spec in recipe("simclr", SMALL)]
    full = replace(spec, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5, blur_kernel=13)
    yield "SimCLR 32 px, lightly's defaults", SMALL_BATCH, batched([full]), one_by_one(SimCLRTransform(SMALL))
    milder = SimCLRTransform(SMALL, cj_strength=0.5, gaussian_blur=0.0)
    yield "SimCLR 32 px, the CIFAR-10 recipe", SMALL_BATCH, batched([spec]), one_by_one(milder)
    multi_crop = SwaVTransform(
        crop_sizes=(32, 16), crop_min_scales=(0.14, 0.1), crop_max_scales=(1.0, 0.4), cj_strength=0.5, gaussian_blur=0.0
    )
    yield "SwAV 2 x 32 and 6 x 16 px", SMALL_BATCH, batched(recipe("swav", SMALL)), one_by_one(multi_crop)


def large_cases(photos: list[Image.Image]) -> Iterator[Case]:
    """From JPEG to views at 224 pixels: the part of our workers and the whole way, against lightly's whole way."""
    files = [jpeg(photo.resize(PHOTO_SIZE, Image.Resampling.LANCZOS)) for photo in photos]
    encoded = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]

    def worker(augment: Augment) -> list[list[Tensor]]:
        return [augment.crop(decode_image(data), 0, index) for index, data in enumerate(encoded)]

    def whole(augment: Augment, batch: int = 16) -> None:
        for start in range(0, len(encoded), batch):
            indices = range(start, min(start + batch, len(encoded)))
            crops = zip(*(augment.crop(decode_image(encoded[i]), 0, i) for i in indices), strict=True)
            augment.finish([torch.stack(crop) for crop in crops], augment.draw(0, torch.tensor(indices)))

    def lightly(transform: Callable) -> None:
        for file in files:
            transform(Image.open(io.BytesIO(file)).convert("RGB"))

    simclr, swav = SimCLRTransform(224), SwaVTransform()
    for title, name, theirs in (
        ("SimCLR 224 px", "simclr", partial(lightly, simclr)),
        ("SwAV 2 x 224 and 6 x 96 px", "swav", partial(lightly, swav)),
    ):
        specs = [replace(spec, interpolation="bilinear") for spec in recipe(name, 224)]  # as lightly does
        augment = Augment(specs, MEAN, STD, seed=0)
        yield f"{title}, the workers' part", len(files), partial(worker, augment), theirs
        yield f"{title}, all on one core", len(files), partial(whole, augment), theirs


def jpeg(photo: Image.Image) -> bytes:
    """The photo as a JPEG of quality 90."""
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def synthetic_photos() -> Iterator[Image.Image]:
    """Coloured noise whose amplitude falls with the frequency, as in photographs."""
    rng = np.random.default_rng(0)
    width, height = PHOTO_SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    mix = np.array([[1.0, 0.3, 0.1], [1.0, 0.0, -0.2], [1.0, -0.3, 0.1]])  # neighbouring colours are alike
    while True:
        planes = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(3, height, width))) / frequency, s=(height, width))
        planes /= planes.std(axis=(1, 2), keepdims=True)
        pixels = 120 + 50 * np.einsum("cd,dhw->hwc", mix, planes)
        yield Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def photos_in(path: Path) -> Iterator[Image.Image]:
    """The images of a folder (and its subfolders) or of a Parquet file."""
    if path.is_dir():
        endings = {".jpg", ".jpeg", ".png", ".webp"}
        files = (file.read_bytes() for file in sorted(path.rglob("*")) if file.suffix.lower() in endings)
    else:
        from pyarrow.parquet import ParquetFile

        batches = ParquetFile(path).iter_batches(PHOTOS, columns=["image"])
        files = (row["image"]["bytes"] for batch in batches for row in batch.to_pylist())
    return (Image.open(io.BytesIO(file)).convert("RGB") for file in files)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--path", type=Path, help="folder of images or Parquet file (default: synthetic images)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each pipeline")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    photos = list(islice(photos_in(options.path) if options.path else synthetic_photos(), PHOTOS))

    print(f"{'images/s on one core':46} {'ours':>8} {'lightly':>8}   ratio (min to max)")
    results = []
    for case in (*small_cases(photos), *large_cases(photos)):
        result = compare(case, options.rounds)
        print(
            f"{result.case:46} {result.ours:8.0f} {result.lightly:8.0f} "
            f"{result.ratio:7.1f} ({result.ratio_min:.1f} to {result.ratio_max:.1f})"
        )
        results.append(asdict(result))
    if options.out:
        write_report(
            options.out,
            ("torch", "torchvision", "lightly", "pillow"),
            what="images/s on one CPU core, medians over rounds in which ours and lightly take turns",
            images="real" if options.path else "synthetic",
            rounds=options.rounds,
            results=results,
        )


if __name__ == "__main__":
    main()
