"""What a data set is to the loader: numbered images with labels and names."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.checks import check_labels
from datamodules.errors import UserError
from datamodules.randomness import permutation
from datamodules.sampling import WindowedOrder


class Source(ABC):
    """Numbered images. Nothing is decoded before it is asked for.

    Attributes:
        labels: [N] int64, -1 where unknown.
        class_names: name of each class, None where there are no labels or no names.
        masked: whether the last channel of the images is a foreground mask.
        order: the order in which an epoch of training visits the images, None for any.
    """

    labels: Tensor
    class_names: list[str] | None = None
    masked: bool = False
    order: WindowedOrder | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, i: int) -> Tensor:
        """Image `i`: [C, H, W] uint8. Raises `decode.UnreadableError` if it cannot be decoded."""

    @abstractmethod
    def name(self, i: int) -> str:
        """What a person would look for to find image `i`: a path, a row of a table."""

    def encoded(self, i: int) -> bytes | None:
        """The file of picture `i` as it is stored; None where there is none, only pixels.

        Raises `decode.UnreadableError` if it cannot be read; bytes are no promise that they can be decoded.
        """
        return None

    @property
    def num_classes(self) -> int | None:
        """Number of classes, None without labels."""
        if self.class_names is not None:
            return len(self.class_names)
        highest = int(self.labels.max()) if len(self) else -1
        return highest + 1 if highest >= 0 else None


class ArraySource(Source):
    """Images that are already pixels, in memory."""

    def __init__(self, images: Tensor, labels: Tensor, class_names: list[str] | None, name: str) -> None:
        """Holds on to the tensors, without a copy.

        Args:
            images: [N, C, H, W] uint8.
            labels: [N] int64, -1 where unknown.
            class_names: name of each class, None if there are none.
            name: what the whole set is called.

        Raises:
            UserError: images and labels differ in number.
        """
        if len(images) != len(labels):
            raise UserError(f"{name} has {len(images)} images and {len(labels)} labels: give one label an image.")
        self.images = images
        self.labels = labels
        self.class_names = class_names
        self._name = name

    def image(self, i: int) -> Tensor:
        """Image `i`: [C, H, W] uint8."""
        return self.images[i]

    def name(self, i: int) -> str:
        """The set's name and the row."""
        return f"{self._name}[{i}]"


class Subset(Source):
    """Some images of a source, renumbered from 0."""

    def __init__(self, source: Source, rows: np.ndarray) -> None:
        """Refers to the source; nothing is copied.

        Args:
            source: the whole.
            rows: [n] int64, the images to keep, in the order of their new numbers.
        """
        self.source = source
        self.rows = rows
        self.labels = source.labels[torch.from_numpy(rows)]
        self.class_names = source.class_names
        self.masked = source.masked
        self.order = source.order and source.order.within(rows)

    def image(self, i: int) -> Tensor:
        """Image `i` of the subset."""
        return self.source.image(int(self.rows[i]))

    def encoded(self, i: int) -> bytes | None:
        """The picture's file, if the whole has it."""
        return self.source.encoded(int(self.rows[i]))

    def name(self, i: int) -> str:
        """The image's name in the whole."""
        return self.source.name(int(self.rows[i]))

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the whole: a subset may lack images of some."""
        return self.source.num_classes


def subset_rows(size: int, max_images: int | None) -> np.ndarray:
    """The fixed subset of at most `max_images` of `size` images: the same in every run, whatever its seed.

    Returns:
        [n] int64, ascending.
    """
    if max_images is None or max_images >= size:
        return np.arange(size)
    if max_images < 1:
        raise UserError(f"{max_images} images were asked for; at least 1 is needed, or null for all.")
    return np.sort(permutation(0, 0, size)[:max_images])


def hold_out(labels: Tensor, fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A fixed split into training and validation images, class by class where there are labels.

    Args:
        labels: [N] int64, -1 where unknown (all unknown: one class).
        fraction: share of each class to hold out, in (0, 1); at least one image of a class stays in training.
        seed: which of the many such splits.

    Returns:
        Rows for training and rows for validation, [n] int64 each, ascending.

    Raises:
        UserError: the fraction is none, or the labels are not one class an image.
    """
    if not 0 < fraction < 1:
        raise UserError(f"val_fraction is {fraction}; it must lie between 0 and 1, for example 0.1.")
    check_labels(labels, "labels to divide")
    order = permutation(seed, 0, len(labels))
    of_row = labels.numpy()[order]
    held = [rows[: min(round(len(rows) * fraction), len(rows) - 1)] for rows in _grouped(order, of_row)]
    val = np.sort(np.concatenate(held)) if held else np.empty(0, dtype=np.int64)
    return np.setdiff1d(np.arange(len(labels)), val), val


def _grouped(rows: np.ndarray, keys: np.ndarray) -> list[np.ndarray]:
    """`rows` split by their `keys`, each group in its given order."""
    by_key = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[by_key])) + 1
    return np.split(rows[by_key], starts)


def encode_labels(values: Sequence[str | int | None]) -> tuple[Tensor, list[str] | None]:
    """Labels of any kind as class numbers.

    Args:
        values: one an image: whole numbers, or names (numbered in alphabetical order), None where unknown.

    Returns:
        [N] int64 with -1 for None, and the class names if the values were names.
    """
    if all(value is None or isinstance(value, int) for value in values):
        return torch.tensor([-1 if value is None else int(value) for value in values], dtype=torch.int64), None
    names = sorted({str(value) for value in values if value is not None})
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([-1 if value is None else number[str(value)] for value in values], dtype=torch.int64), names


def renumbered(labels: Tensor, names: list[str] | None, class_names: list[str] | None, title: str) -> Tensor:
    """Labels of validation by the classes of training, which may have more of them, or another order.

    Args:
        labels: [N] int64, -1 where unknown.
        names: what the labels are numbers of; None if they have no names.
        class_names: the classes to number them by; None to leave them as they are.
        title: what to call the images.

    Returns:
        [N] int64.

    Raises:
        UserError: a label is none of the classes.
    """
    if names is None or class_names is None or names == class_names:
        return labels
    number = {name: i for i, name in enumerate(class_names)}
    unknown = [names[i] for i in labels.unique().tolist() if i >= 0 and names[i] not in number]
    if unknown:
        raise UserError(
            f"{title} has classes that the training pictures lack: {', '.join(unknown[:5])}. "
            "Training and validation must name their classes alike."
        )
    table = torch.tensor([*(number.get(name, -1) for name in names), -1])
    return table[labels]  # -1 is the last of the table


def data_root() -> Path | None:
    """The folder of data sets that the environment variable PARALLAX_DATA names, None if unset."""
    root = os.environ.get("PARALLAX_DATA")
    return Path(root) if root else None


def find(path: str) -> Path | None:
    """The file or folder `path`: as given or, if there is none, below PARALLAX_DATA."""
    root = data_root()
    candidates = [Path(path).expanduser()] + ([root / path] if root else [])
    return next((candidate for candidate in candidates if candidate.exists()), None)
