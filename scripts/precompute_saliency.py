"""Foreground masks of a data set's training images, for recipes that remove background; once for each data set.

python scripts/precompute_saliency.py --data CIFAR10 --data.path FOLDER --montage masks.png
python scripts/precompute_saliency.py --data CIFAR10 --data.path FOLDER --out cifar10_masks.bin --workers 8
python cli.py fit --model ReLICv2 --data CIFAR10 --data.path FOLDER --data.masks cifar10_masks.bin

The first looks at sixteen images (image, saliency, mask, a masked view), the second writes the masks of all. A saliency
model of your own is a function from [H, W, 3] uint8 to [H, W] in [0, 1], given by its import path, `--saliency
my_model.saliency`; one that runs on an accelerator needs `--workers 0`.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, from anywhere
from datamodules import ImageDataModule
from datamodules.augment import Augment, recipe
from datamodules.augment.recipes import SMALL_IMAGE
from datamodules.decode import UnreadableError
from datamodules.errors import UserError
from datamodules.loading import default_workers
from datamodules.masks import write_masks
from datamodules.saliency import saliency, to_mask
from datamodules.sources import Source

Saliency = Callable[[np.ndarray], np.ndarray]
SMALL_SIDE, LARGE_SIDE = 32, 56  # pixels of a mask, for small images and others: 128 and 392 bytes
BATCH = 64
SHOWN = 16  # images of a montage


class Masks(Dataset):
    """The mask [side, side] of each image; all ones, which removes nothing, of those that cannot be read."""

    def __init__(self, source: Source, method: Saliency, side: int) -> None:
        self.source = source
        self.method = method
        self.side = side

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> np.ndarray:
        try:
            image = self.source.image(i)
        except UnreadableError:
            return np.ones((self.side, self.side), dtype=bool)
        return to_mask(salient(image, self.method), self.side)


def salient(image: Tensor, method: Saliency) -> np.ndarray:
    """The saliency [H, W] of an image [C, H, W] uint8; refuses what is none.

    Raises:
        UserError: the image has neither one nor three channels, or the method returned something else.
    """
    if len(image) not in (1, 3):
        raise UserError(f"The images have {len(image)} channels; saliency is defined for gray and RGB images.")
    found = method(image.expand(3, -1, -1).permute(1, 2, 0).numpy())
    if found.shape != image.shape[1:] or not (found.min() >= 0 and found.max() <= 1):
        raise UserError(
            f"The saliency of a {image.shape[2]}x{image.shape[1]} picture came out as {found.shape} with values from "
            f"{found.min():.3g} to {found.max():.3g}: --saliency must return [height, width] in [0, 1]."
        )
    return found


def first_readable(source: Source) -> int:
    """Number of an image to try the method on."""
    for i in range(len(source)):
        try:
            source.image(i)
        except UnreadableError:
            continue
        return i
    raise UserError("None of the training images can be read: see data.path.")


def in_blocks(masks: Masks, workers: int) -> DataLoader:
    """All masks in order, in blocks [n, side, side]."""
    return DataLoader(
        masks, BATCH, num_workers=workers, collate_fn=np.stack, worker_init_fn=one_thread, pin_memory=False
    )


def one_thread(_: int = 0) -> None:
    """Threads of the linear algebra would fight over the cores, and change last digits with their number."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def with_progress(blocks: Iterable[np.ndarray], total: int) -> Iterator[np.ndarray]:
    """Passes the blocks on; tells at every tenth how long the rest will take."""
    started, done, told = time.perf_counter(), 0, 0
    for block in blocks:
        yield block
        done += len(block)
        if done * 10 // total > told:
            told = done * 10 // total
            rate = done / (time.perf_counter() - started)
            print(f"{done}/{total} images, {rate:.0f} images/s, {(total - done) / rate / 60:.1f} min left", flush=True)


def montage(data: ImageDataModule, source: Source, method: Saliency, side: int) -> Image.Image:
    """Sixteen images spread over the data set, each with saliency, mask, and a masked large view of ReLICv2."""
    spec = replace(recipe("relicv2", data.image_size)[0], background_removal=1.0)
    augment = Augment([spec], data.mean, [1.0] * len(data.mean), seed=0)
    mean = torch.tensor(data.mean)[:, None, None]
    tile = max(96, side)
    rows = []
    for i in torch.linspace(0, len(source) - 1, SHOWN).long().tolist():
        image = source.image(i)
        found = salient(image, method)
        small = Image.fromarray(to_mask(found, side).astype(np.uint8) * 255)
        mask = torch.from_numpy(np.array(small.resize((image.shape[2], image.shape[1]), Image.Resampling.BILINEAR)))
        crops = [crop[None] for crop in augment.crop(torch.cat((image, mask[None])), 0, i)]
        (view,), _ = augment.finish(crops, augment.draw(0, torch.tensor([i])))
        shown = ((view[0] + mean).clamp(0, 1) * 255).byte()
        pictures = (image, torch.from_numpy(found * 255).byte()[None], mask[None], shown)
        rows.append(np.hstack([_tile(picture, tile) for picture in pictures]))
    return Image.fromarray(np.vstack([np.hstack(rows[k : k + 2]) for k in range(0, len(rows), 2)]))


def _tile(picture: Tensor, side: int) -> np.ndarray:
    """[side, side, 3] uint8 of a picture [C, H, W] uint8."""
    pixels = picture.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), Image.Resampling.NEAREST))


def imported(path: str) -> Saliency:
    """The function at an import path.

    Raises:
        UserError: there is none.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: a path without a module
        raise UserError(
            f"--saliency {path} cannot be imported ({error}): give MODULE.FUNCTION, of a module that is installed or "
            "in this folder."
        ) from None


def name_of(method: Saliency) -> str:
    """Import path of a function, or of the class of a callable object."""
    named = method if hasattr(method, "__qualname__") else type(method)
    return f"{named.__module__}.{named.__qualname__}"


def run(data: ImageDataModule, out: Path | None, picture: Path | None, method: Saliency, workers: int | None) -> None:
    """Does what the command line asks for."""
    if out is None and picture is None:
        raise UserError("Nothing to do: give --out FILE for the masks, or --montage FILE for a look at some.")
    one_thread()
    data.prepare_data()
    source, _ = data.sources()
    side = SMALL_SIDE if data.image_size <= SMALL_IMAGE else LARGE_SIDE
    salient(source.image(first_readable(source)), method)  # a refusal from a worker would come with its stack
    if picture:
        montage(data, source, method, side).save(picture)
        print(f"written: {picture}")
    if out:
        started = time.perf_counter()
        blocks = in_blocks(Masks(source, method, side), default_workers(1) if workers is None else workers)
        header = write_masks(out, source, with_progress(blocks, len(source)), type(data).__name__, name_of(method))
        print(
            f"written: {out}, {header.count} masks of {side}x{side} in {(time.perf_counter() - started) / 60:.1f} min; "
            f"{header.usable:.1%} usable, in these {header.foreground:.1%} foreground"
        )


def main() -> None:
    sys.path.append(os.getcwd())  # a saliency function in the user's own folder
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_subclass_arguments(ImageDataModule, "data", required=True)
    parser.add_argument("--out", type=Path | None, help="file of masks to write, for --data.masks")
    parser.add_argument("--montage", type=Path | None, help="picture (PNG) of some masks to write")
    parser.add_argument("--saliency", default=name_of(saliency), help="import path of the saliency function")
    parser.add_argument("--workers", type=int | None, help="processes (default: one for each core, at most 16)")
    given = vars(parser.instantiate(parser.parse_args()))
    try:
        run(given["data"], given["out"], given["montage"], imported(given["saliency"]), given["workers"])
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
