"""Images of data modules and files, as people see them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from callbacks.pictures import to_pixels
from callbacks.report.sample import VIEW
from datamodules import ImageDataModule
from datamodules.augment import CleanView
from datamodules.cache import SplitName
from datamodules.decode import UnreadableError, decode
from datamodules.errors import UserError


class Shown(NamedTuple):
    """Images for a network and for people.

    Attributes:
        inputs: [B, C, H, W] normalised.
        pictures: [h, w] or [h, w, 3] uint8 each.
        names: of their classes or files, empty where unknown.
    """

    inputs: Tensor
    pictures: list[np.ndarray]
    names: list[str]


def clean_pictures(
    data: ImageDataModule, split: SplitName, index: Tensor, max_images: int | None = None
) -> dict[int, np.ndarray]:
    """Looks up images as evaluation shows them, before normalisation; reads up to the last one that is wanted.

    Args:
        data: after `setup`.
        split: `train` or `val`.
        index: int64 of any shape, positions in the split.
        max_images: the subset in which they are, as in `ImageDataModule.clean_batches`.

    Returns:
        Position -> [h, w] or [h, w, 3] uint8; without those that cannot be read.
    """
    wanted, found = index.unique(), {}
    for batch in data.clean_batches(split, torch.device("cpu"), max_images, raw=True):
        for row in torch.isin(batch.index, wanted).nonzero().flatten().tolist():
            found[int(batch.index[row])] = _picture(batch.global_views[0][row])
        if len(found) == len(wanted):
            break
    return found


def from_validation(data: ImageDataModule, count: int) -> Shown:
    """A fixed random subset of the validation images, named by class."""
    data.prepare_data()
    data.setup("validate")
    batches = [b.rows(0, int((b.index >= 0).sum())) for b in data.clean_batches("val", torch.device("cpu"), count)]
    inputs = torch.cat([batch.global_views[0] for batch in batches])
    labels = torch.cat([batch.label for batch in batches]).tolist()
    pictures = [_picture(image, data.mean, data.std) for image in inputs]
    return Shown(inputs, pictures, [class_name(data, label) if label >= 0 else "" for label in labels])


def from_files(paths: Sequence[Path], view: CleanView, channels: int) -> Shown:
    """Pictures from files, as evaluation would show them to a network, named by file.

    Args:
        paths: of the files.
        view: the network's size and normalisation.
        channels: of the network's images: 3, or 1 for grey.

    Raises:
        UserError: a file is no picture, or the network takes other images.
    """
    if channels not in (1, 3):
        raise UserError(f"The network takes images of {channels} channels, and pictures have 3 or 1: give --data.")
    inputs = []
    for path in paths:
        try:
            image = decode(path, str(path))
        except UnreadableError as error:
            raise UserError(f"{path} cannot be read as a picture: {error.reason}.") from None
        image = image if channels == 3 else image.float().mean(0, keepdim=True).round().byte()
        inputs.append(view(image[None])[0])
    pictures = [_picture(image, view.normalize.mean, view.normalize.std) for image in inputs]
    return Shown(torch.stack(inputs), pictures, [path.name for path in paths])


def _picture(image: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> np.ndarray:
    """[h, w] or [h, w, 3] uint8 of an image [C, H, W], normalised or, without mean and deviation, in [0, 1]."""
    C = len(image)
    return as_array(to_pixels(image[None], mean or [0.0] * C, std or [1.0] * C, VIEW)[0])


def as_array(image: Tensor) -> np.ndarray:
    """[h, w] or [h, w, 3] of an image [1 or 3, h, w]."""
    return image.permute(1, 2, 0).squeeze(2).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()


def class_name(data: ImageDataModule, label: int) -> str:
    """What a label is called; its number if classes have no names."""
    names = data.class_names
    if label < 0:
        return "unknown"
    return names[label] if names is not None and label < len(names) else f"class {label}"
