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
from typing import cast

import numpy as np
import torch
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
from scripts.parsing import PlainParser, answering_mistakes

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
    of, wanted = f"The saliency of a {image.shape[2]}x{image.shape[1]} picture", "an array [height, width] in [0, 1]"
    if not isinstance(found, np.ndarray):
        raise UserError(f"{of} came out as {type(found).__name__}: --saliency must return {wanted}.")
    if found.shape != image.shape[1:] or not (found.min() >= 0 and found.max() <= 1):
        raise UserError(
            f"{of} came out as {found.shape} with values from {found.min():.3g} to {found.max():.3g}: --saliency must "
            f"return {wanted}."
        )
    return found


def check_method(source: Source, method: Saliency) -> None:
    """Tries the method on one image: what it raises in a worker would come with the worker's stack.

    Raises:
        UserError: no image can be read, or the method fails on it.
    """
    image = source.image(readable(source, 0))
    try:
        salient(image, method)
    except UserError:
        raise
    except Exception as error:  # somebody else's function may raise anything
        raise UserError(
            f"--saliency {name_of(method)} fails on a picture with {type(error).__name__}: {error}. It is called with "
            "[height, width, 3] uint8."
        ) from error


def readable(source: Source, start: int) -> int:
    """Number of the first image from `start` on that can be read, going round."""
    for i in (*range(start, len(source)), *range(start)):
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
        i = readable(source, i)
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
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: a path without a module
        raise UserError(
            f"--saliency {path} cannot be imported ({error}): give MODULE.FUNCTION, of a module that is installed or "
            "in this folder."
        ) from None
    if not callable(found):
        raise UserError(f"--saliency {path} is a {type(found).__name__}, no function: give MODULE.FUNCTION.")
    return cast(Saliency, found)


def name_of(method: Saliency) -> str:
    """Import path of a function, or of the class of a callable object."""
    named = method if hasattr(method, "__qualname__") else type(method)
    return f"{named.__module__}.{named.__qualname__}"


def check_flags(out: Path | None, picture: Path | None, workers: int | None) -> None:
    """Refuses before the long run what would fail after it.

    Raises:
        UserError: nothing is asked for, or what is asked for cannot be written.
    """
    if out is None and picture is None:
        raise UserError("Nothing to do: give --out FILE for the masks, or --montage FILE for a look at some.")
    for flag, file in (("--out", out), ("--montage", picture)):
        if file and not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
            raise UserError(f"{flag} {file}: there is no folder {file.parent} to write to. Give another place.")
        if file and file.is_dir():
            raise UserError(f"{flag} {file} is a folder: give the name of a file in it.")
    if picture and picture.suffix.lower() != ".png":
        raise UserError(f"--montage {picture} must end in .png.")
    if workers is not None and workers < 0:
        raise UserError(f"--workers {workers} must be 0, for this process alone, or more.")


def run(data: ImageDataModule, out: Path | None, picture: Path | None, method: Saliency, workers: int | None) -> None:
    """Does what the command line asks for."""
    one_thread()
    data.prepare_data()
    source, _ = data.sources()
    side = SMALL_SIDE if data.image_size <= SMALL_IMAGE else LARGE_SIDE
    check_method(source, method)
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
    parser = PlainParser(description=(__doc__ or "").splitlines()[0])
    parser.add_subclass_arguments(ImageDataModule, "data", required=True)
    parser.add_argument("--out", type=Path | None, help="file of masks to write, for --data.masks")
    parser.add_argument("--montage", type=Path | None, help="picture (PNG) of some masks to write")
    parser.add_argument("--saliency", default=name_of(saliency), help="import path of the saliency function")
    parser.add_argument("--workers", type=int | None, help="processes (default: one for each core, at most 16)")
    with answering_mistakes():
        given = parser.parse_args()
        check_flags(given.out, given.montage, given.workers)
        method = imported(given.saliency)
        run(parser.instantiate(given).data, given.out, given.montage, method, given.workers)


if __name__ == "__main__":
    main()
