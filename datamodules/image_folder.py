"""Picture files: folders of classes, a plain folder, or a list of paths."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.decode import decode, read_bytes
from datamodules.errors import UserError
from datamodules.sources import Source, Subset, encode_labels, find, hold_out, renumbered

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
_VAL_FOLDERS = ("val", "validation", "test")


class ImageFolder(ImageDataModule):
    """Your own pictures, with or without labels.

    Labels are the names of the folders right below the root. Without at least two such folders, or where pictures lie
    in the root itself, there are no labels.
    """

    def __init__(self, path: str, val_path: str | None = None, val_fraction: float = 0.1, **base) -> None:
        """
        Args:
            path: folder with a folder of pictures for each class; or with `train` and `val` (`validation`, `test`) that
                are such folders; or with pictures of no class; or a text file with one path a line, relative to the
                file, optionally followed by a tab and the label. As given, or below the folder that the environment
                variable PARALLAX_DATA names.
            val_path: the same for validation; null for the folder beside `train` or else a share of the training
                pictures.
            val_fraction: share to hold out where there are no validation pictures: fixed, and taken from each class.
            **base: see `ImageDataModule`.
        """
        super().__init__(**base)
        self.path = path
        self.val_path = val_path
        self.val_fraction = val_fraction

    def sources(self) -> tuple[Source, Source]:
        """The training and the validation pictures."""
        root = _existing(self.path, "path")
        train_root = root / "train" if (root / "train").is_dir() else root
        val_roots = [root / name for name in _VAL_FOLDERS if train_root != root and (root / name).is_dir()]
        val_root = _existing(self.val_path, "val_path") if self.val_path else next(iter(val_roots), None)
        train = FileSource(train_root)
        if val_root is not None:
            return train, FileSource(val_root, train.class_names)
        train_rows, val_rows = hold_out(train.labels, self.val_fraction)
        return Subset(train, train_rows), Subset(train, val_rows)


class FileSource(Source):
    """Picture files by their paths."""

    def __init__(self, root: Path, class_names: list[str] | None = None) -> None:
        """Lists the files, in alphabetical order (a list of paths: in its own); reads none.

        Args:
            root: folder of pictures, or text file with a list of paths.
            class_names: the classes to number the labels by; None for those found.
        """
        paths, labels = _listed(root) if root.is_file() else _walked(root, fewest=1 if class_names else 2)
        if not paths:
            known = ", ".join(sorted(_SUFFIXES))
            raise UserError(f"There are no pictures in {root}; known are files that end in {known}.")
        # One array instead of a million Python strings, whose reference counts would make each worker copy their
        # memory.
        self._paths = np.array([os.fsencode(path) for path in paths])
        self.labels, self.class_names = _numbered(labels, class_names, root)

    def image(self, i: int) -> Tensor:
        """Picture `i`: [3, H, W] uint8."""
        return decode(self.encoded(i), self.name(i))

    def encoded(self, i: int) -> bytes:
        """The file of picture `i`."""
        return read_bytes(Path(self.name(i)), self.name(i))

    def name(self, i: int) -> str:
        """The path."""
        return os.fsdecode(self._paths[i])


def _existing(path: str, argument: str) -> Path:
    found = find(path)
    if found is None:
        raise UserError(f"There is no {path}, here or below PARALLAX_DATA: set data.{argument} to where pictures are.")
    return found


def _walked(root: Path, fewest: int) -> tuple[list[str], list[str | None]]:
    """Paths of the pictures below a folder, and the name of the first folder on the way to each, from `fewest` on."""
    paths = sorted(_pictures(root))
    folders = [os.path.relpath(path, root).split(os.sep)[0] for path in paths]
    in_root = any(folder == os.path.basename(path) for folder, path in zip(folders, paths, strict=True))
    if in_root or len(set(folders)) < fewest:
        return paths, [None] * len(paths)
    return paths, list(folders)


def _pictures(folder: str | Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _pictures(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in _SUFFIXES and not entry.name.startswith("."):
                yield entry.path


def _listed(file: Path) -> tuple[list[str], list[str | None]]:
    """Paths and labels of a list: a path a line, optionally a tab and a label."""
    paths, labels = [], []
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{file} is no list of pictures, a path a line: give a text, or a folder.") from None
    for line in text.splitlines():
        if line.strip():
            path, _, label = line.partition("\t")
            paths.append(str(file.parent / path.strip()))
            labels.append(label.strip() or None)
    return paths, labels


def _numbered(labels: list[str | None], class_names: list[str] | None, root: Path) -> tuple[Tensor, list[str] | None]:
    """Class numbers [N] int64 and class names."""
    if all(label is None for label in labels):
        return torch.full((len(labels),), -1), None
    numbers, names = encode_labels(labels)
    return renumbered(numbers, names, class_names, str(root)), class_names or names
