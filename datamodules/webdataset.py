"""Tar shards in the WebDataset convention, for what does not fit on a disk of small files."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.decode import decode
from datamodules.errors import UserError
from datamodules.faults import FaultReport
from datamodules.sampling import WindowedOrder
from datamodules.shard_files import VAL_NAMES, find_shards
from datamodules.shard_index import indexed
from datamodules.shards import PICTURES, ShardIndex, read_place, state_of
from datamodules.sources import Source, Subset, encode_labels, hold_out

CLASSES = "classes.json"
"""File beside the shards with the names of the classes, a list."""

_THREADS = 16  # shards whose headers are read at a time: on a network disk that is waiting, not work


class WebDataset(ImageDataModule):
    """Pictures in tar shards, read where they lie: local or mounted, never unpacked.

    The files of a sample share their name up to the first dot: `000123.jpg` (or another picture) and perhaps
    `000123.cls` or `000123.json` with the label, a number or a name. The headers of each shard are read once, its index
    is kept in a file beside it. `scripts/pack_shards.py` makes shards of other data.
    """

    def __init__(
        self,
        path: str,
        val_path: str | None = None,
        val_fraction: float = 0.1,
        image_extension: str | None = None,
        label_field: str = "label",
        shuffle_shards: int | None = None,
        **base,
    ) -> None:
        """
        Args:
            path: folder with shards `*.tar`, or a pattern such as `shards/train-{000000..000099}.tar` or
                `shards/train-*.tar`; as given or below the folder that the environment variable PARALLAX_DATA names.
                Shards with `validation`, `valid`, `val`, `dev` or `test` in their name (in a folder: in their path) are
                not trained on.
            val_path: the same for validation, whatever the names; null for the shards of `path` that are named so, or
                else a share of the training samples.
            val_fraction: share to hold out where there are no validation shards: fixed, and taken from each class.
            image_extension: of the file that is a sample's picture, where it has several; null for the only one.
            label_field: entry of a sample's JSON file that is its label, where it has no `.cls`.
            shuffle_shards: shards, in a new random order each epoch, that training reads from at a time: its order is
                random within so many, which keeps reads together on a slow disk; null or 0 for a random order of all
                samples.
            **base: see `ImageDataModule`.
        """
        super().__init__(**base)
        self.path = path
        self.val_path = val_path
        self.val_fraction = val_fraction
        self.image_extension = image_extension.lstrip(".").lower() if image_extension else None
        self.label_field = label_field
        self.shuffle_shards = shuffle_shards

    def prepare_data(self) -> None:
        """Makes the indices that are missing; in one process a machine."""
        train, val = self._shards()
        began = time.perf_counter()
        new = sum(made for _, made in self._indices(train + val))
        if new:
            rank_zero_info(f"Indexed {new} shards of {self.path} in {time.perf_counter() - began:.1f} s.")

    def sources(self) -> tuple[Source, Source]:
        """The training and the validation samples."""
        if (self.shuffle_shards or 0) < 0:
            raise UserError(f"data.shuffle_shards is {self.shuffle_shards}; give shards to read from at a time, or 0.")
        train_shards, val_shards = self._shards()
        train = self._source(train_shards, _class_names(train_shards[0]))
        if self.shuffle_shards:
            train.order = WindowedOrder(train.shard, self.shuffle_shards)
        if val_shards:
            return train, self._source(val_shards, train.class_names)
        train_rows, val_rows = hold_out(train.labels, self.val_fraction)
        return Subset(train, train_rows), Subset(train, val_rows)

    def _shards(self) -> tuple[list[Path], list[Path]]:
        """Those to train on and those to validate on; none if a share is to be held out."""
        found = find_shards(self.path, "path")
        train = [shard for shard, word in found.items() if word is None]
        if not train:
            words = ", ".join(sorted({str(word) for word in found.values()}))
            raise UserError(f"No shard of {self.path} is for training: the names of all have {words} in them.")
        if self.val_path:
            return train, list(find_shards(self.val_path, "val_path"))
        first = next((word for word in VAL_NAMES if word in found.values()), None)
        return train, [shard for shard, word in found.items() if word == first is not None]

    def _indices(self, shards: list[Path]) -> list[tuple[ShardIndex, bool]]:
        index = partial(indexed, image_extension=self.image_extension, label_field=self.label_field)
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(index, shards))

    def _source(self, shards: list[Path], class_names: list[str] | None) -> "ShardSource":
        indices = [index for index, _ in self._indices(shards)]
        faults = [fault for index in indices for fault in index.faults]
        if faults and self.unreadable == "stop":
            raise UserError(
                f"{faults[0].name}: {faults[0].reason}. Mend the shard, or set data.unreadable to skip to go on "
                "without what cannot be read."
            )
        if not any(len(index.offset) for index in indices):
            why = f"; {faults[0].name}: {faults[0].reason}" if faults else ""
            raise UserError(
                f"The shards of {shards[0].parent} hold no samples with a picture ({', '.join(PICTURES)}){why}."
            )
        if getattr(rank_zero_only, "rank", 0) == 0:  # all ranks find the same
            FaultReport().add(faults)
        return ShardSource(shards, indices, class_names)


class ShardSource(Source):
    """Samples of tar shards, shard after shard."""

    def __init__(self, shards: list[Path], indices: list[ShardIndex], class_names: list[str] | None = None) -> None:
        """Joins the indices; reads no pictures.

        Args:
            shards: the tars.
            indices: what each holds.
            class_names: the classes that labels are names or numbers of; None for those found.

        Raises:
            UserError: a label is not among the classes, or some are numbers and some are names.
        """
        self._shards = shards
        self._states = [state_of(shard) for shard in shards]
        self.shard = np.repeat(np.arange(len(shards)), [len(index.offset) for index in indices])  # [N], of each sample
        self._offset = np.concatenate([index.offset for index in indices])
        self._size = np.concatenate([index.size for index in indices])
        self._key = np.concatenate([index.key for index in indices])
        self.labels, self.class_names = _labels(indices, class_names, shards[0].parent)

    def image(self, i: int) -> Tensor:
        """Picture `i`: [3, H, W] uint8."""
        return decode(self.encoded(i), self.name(i))

    def encoded(self, i: int) -> bytes:
        """The file of picture `i`."""
        shard = self.shard[i]
        place = int(self._offset[i]), int(self._size[i])
        return read_place(self._shards[shard], self._states[shard], place, self.name(i))

    def name(self, i: int) -> str:
        """The shard and the key."""
        return f"{self._shards[self.shard[i]]}:{self._key[i].decode('utf-8', 'replace')}"


def _class_names(shard: Path) -> list[str] | None:
    """What `classes.json` beside a shard says."""
    file = shard.with_name(CLASSES)
    if not file.is_file():
        return None
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f'{file} is no list of names: give the classes in the order of their numbers, ["cat", "dog"].')
    return names


def _labels(indices: list[ShardIndex], class_names: list[str] | None, where: Path) -> tuple[Tensor, list[str] | None]:
    """Class numbers [N] int64 and class names of all samples."""
    values = list(dict.fromkeys(value for index in indices for value in index.values))
    if class_names is None:
        if len({type(value) for value in values}) > 1:
            number, name = (next(v for v in values if isinstance(v, kind)) for kind in (int, str))
            raise UserError(
                f"Some labels in {where} are numbers ({number}) and some are names ({name}): put a {CLASSES} beside "
                'the shards that names them all, in the order of their numbers: ["cat", "dog"].'
            )
        numbers, class_names = encode_labels(values)
    else:
        of_name = {name: i for i, name in enumerate(class_names)}
        known = [of_name.get(v, -1) if isinstance(v, str) else v if v < len(class_names) else -1 for v in values]
        if -1 in known:
            raise UserError(
                f"The label {values[known.index(-1)]} in {where} is none of the {len(class_names)} classes that "
                f"training or {CLASSES} names, {', '.join(class_names[:5])}{', ...' if len(class_names) > 5 else ''}."
            )
        numbers = torch.tensor(known, dtype=torch.int64)
    number_of = dict(zip(values, numbers.tolist(), strict=True))
    tables = [np.array([*(number_of[value] for value in index.values), -1]) for index in indices]
    labels = [table[index.label] for table, index in zip(tables, indices, strict=True)]  # -1 is the last of a table
    return torch.from_numpy(np.concatenate(labels).astype(np.int64)), class_names
