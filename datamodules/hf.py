"""Image sets of the Hugging Face hub, and Parquet files in the same layout."""

import glob
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.decode import decode, read_bytes
from datamodules.errors import UserError
from datamodules.sources import Source, encode_labels, find, renumbered

if TYPE_CHECKING:  # takes a second to import
    import datasets

_VAL_SPLITS = ("validation", "valid", "val", "dev", "test")


class HFImages(ImageDataModule):
    """Any image set of the Hugging Face hub by name, or Parquet files that hold encoded pictures.

    The pictures stay encoded, in memory-mapped files of the `datasets` library's cache, and are decoded one by one.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        train_split: str = "train",
        val_split: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        **base,
    ) -> None:
        """
        Args:
            path: folder with Parquet files (each belongs to the split that its name begins with:
                `train-00000-of-00002.parquet`), as given or below the folder that the environment variable
                PARALLAX_DATA names; or a pattern such as `pictures/*.parquet`; or else the name of a data set on the
                hub.
            name: configuration of a data set on the hub that has several.
            train_split: split to train on; a part of one works too: `train[:90%]`.
            val_split: split to validate on, say `train[90%:]`; null for the first there is of validation, valid, val,
                dev, test.
            image_column: column with the pictures; null for the only one there is.
            label_column: column with the labels; null for `label`, if there is such a column, or else the only one of
                classes.
            **base: see `ImageDataModule`.
        """
        super().__init__(**base)
        self.path = path
        self.name = name
        self.train_split = train_split
        self.val_split = val_split
        self.image_column = image_column
        self.label_column = label_column

    def sources(self) -> tuple[Source, Source]:
        """The two splits."""
        train = self._open(self.train_split)
        return train, self._open(self.val_split or self._find_val_split(), train.class_names)

    def _open(self, split: str, class_names: list[str] | None = None) -> "HFSource":
        files = parquet_files(self.path)
        if files and split.partition("[")[0] not in files:
            known = ", ".join(files)
            raise UserError(f"{self.path} has no split {split}, only {known}: see data.train_split and data.val_split.")
        table = _load("parquet", None, split, files) if files else _load(self.path, self.name, split)
        return HFSource(table, f"{self.path} {split}", self.image_column, self.label_column, class_names)

    def _find_val_split(self) -> str:
        import datasets

        files = parquet_files(self.path)
        try:
            splits = list(files) if files else datasets.get_dataset_split_names(self.path, self.name)
        except (OSError, ValueError) as error:
            raise _unreachable(self.path, error) from None
        for split in _VAL_SPLITS:
            if split in splits:
                return split
        raise UserError(
            f"{self.path} has no split for validation, only {', '.join(splits)}: name one with data.val_split, "
            'or divide one, for example data.train_split "train[:90%]" and data.val_split "train[90%:]".'
        )


class HFSource(Source):
    """One split as the `datasets` library sees it."""

    def __init__(
        self,
        table: "datasets.Dataset",
        title: str,
        image_column: str | None = None,
        label_column: str | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        """Finds the columns and reads the labels.

        Args:
            table: the split.
            title: what to call it in messages.
            image_column: column with the pictures; None for the only one there is.
            label_column: column with the labels; None for `label` or else the only one of classes.
            class_names: the classes to number the labels by; None for those found.

        Raises:
            UserError: a column is not there or holds no pictures, or a label is none of the classes.
        """
        import datasets

        image_column = image_column or _only_column(table, datasets.Image)
        if image_column is None:
            raise _missing("image_column", "one column of pictures", table, title)
        if image_column not in table.column_names:
            raise _missing("image_column", image_column, table, title)
        if label_column is None:
            label_column = "label" if "label" in table.column_names else _only_column(table, datasets.ClassLabel)
        elif label_column not in table.column_names:
            raise _missing("label_column", label_column, table, title)
        self._title = title
        column = table.select_columns([image_column])
        try:
            self._pictures = column.cast_column(image_column, datasets.Image(decode=False))
        except (TypeError, ValueError, NotImplementedError):  # Arrow's words for a cast that there is not
            raise UserError(
                f"Column {image_column} of {title} holds {table.features[image_column]}, no pictures: name another "
                "with data.image_column."
            ) from None
        self._column = image_column
        labels, names = _labels(table, label_column)
        self.labels = renumbered(labels, names, class_names, title)
        self.class_names = names and (class_names or names)

    def image(self, i: int) -> Tensor:
        """Picture `i`: [3, H, W] uint8."""
        return decode(self.encoded(i), self.name(i))

    def encoded(self, i: int) -> bytes:
        """The file of picture `i`."""
        picture = self._pictures[i][self._column] or {}  # a row may be null
        if picture.get("bytes") is None and picture.get("path"):
            return read_bytes(Path(picture["path"]), self.name(i))
        return picture.get("bytes") or b""

    def name(self, i: int) -> str:
        """The split and the row."""
        return f"{self._title}[{i}]"


def open_parquet(pattern: Path, label_column: str | None = None) -> HFSource:
    """The rows of all Parquet files that a pattern matches, in the order of their names."""
    files = {"train": sorted(glob.glob(str(pattern)))}
    return HFSource(_load("parquet", None, "train", files), str(pattern), None, label_column)


def parquet_files(path: str) -> dict[str, list[str]]:
    """Local Parquet files by the split that their names begin with (`train` where they say nothing).

    Args:
        path: folder, file or pattern, as given or below PARALLAX_DATA.

    Returns:
        Split to paths in alphabetical order; empty if there is nothing of that name.
    """
    found = find(path)
    if found is None:
        files = sorted(glob.glob(path, recursive=True))
    else:
        files = [str(found)] if found.is_file() else sorted(map(str, found.rglob("*.parquet")))
        if not files:
            raise UserError(f"There are no Parquet files in {found}; for picture files use --data ImageFolder.")
    splits: dict[str, list[str]] = {}
    for file in files:
        first = Path(file).name.split("-")[0].removesuffix(".parquet")
        splits.setdefault(first if first in _VAL_SPLITS else "train", []).append(file)
    return splits


def _load(path: str, name: str | None, split: str, files: dict[str, list[str]] | None = None) -> "datasets.Dataset":
    import datasets

    try:
        table = datasets.load_dataset(path, name, split=split, data_files=files)
    except (OSError, ValueError) as error:
        if files:
            damaged = ", ".join(files[split.partition("[")[0]])
            raise UserError(f"{damaged} cannot be read as Parquet: {_first_line(error)}") from None
        raise _unreachable(path, error) from None
    assert isinstance(table, datasets.Dataset)
    return table


def _unreachable(path: str, error: Exception) -> UserError:
    return UserError(
        f"{path} is neither a local folder nor a data set that could be had from the hub ({_first_line(error)}): "
        "see data.path, data.name, the names of the splits, and the network."
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _only_column(table: "datasets.Dataset", feature: type) -> str | None:
    columns = [name for name, kind in table.features.items() if isinstance(kind, feature)]
    return columns[0] if len(columns) == 1 else None


def _missing(argument: str, wanted: str, table: "datasets.Dataset", title: str) -> UserError:
    columns = ", ".join(table.column_names)
    return UserError(f"{title} does not have {wanted}; its columns are {columns}. Name one with data.{argument}.")


def _labels(table: "datasets.Dataset", column: str | None) -> tuple[Tensor, list[str] | None]:
    """[N] int64 labels and the class names."""
    import datasets

    if column is None:
        return torch.full((len(table),), -1), None
    labels, names = encode_labels(table.select_columns([column])[:][column])
    feature = table.features[column]
    return labels, feature.names if isinstance(feature, datasets.ClassLabel) else names
