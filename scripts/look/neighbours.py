"""Validation images beside the training images that a network finds most like them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from datamodules import ImageDataModule
from datamodules.errors import UserError
from methods.evaluation.features import Features
from scripts.look.figures import Cell, picture_sheet
from scripts.look.pictures import class_name, clean_pictures


class Near(NamedTuple):
    """The training images nearest to some validation images, as rows of their features.

    Attributes:
        query: [Q] int64, rows of the validation features.
        row: [Q, k] int64, rows of the training features, the nearest first.
        cosine: [Q, k].
    """

    query: Tensor
    row: Tensor
    cosine: Tensor


def find(train: Features, val: Features, queries: int, k: int) -> Near:
    """The k training images nearest by cosine to evenly drawn validation images.

    Raises:
        UserError: the features are not finite.
    """
    query = torch.linspace(0, len(val.h) - 1, min(queries, len(val.h))).long()
    cosines = F.normalize(val.h[query], dim=1) @ F.normalize(train.h, dim=1).T
    if not torch.isfinite(cosines).all():
        raise UserError("The features are not finite, so no image has neighbours: the network is broken.")
    cosine, row = cosines.topk(min(k, len(train.h)))
    return Near(query, row.cpu(), cosine.cpu())


def draw(
    data: ImageDataModule, train: Features, val: Features, near: Near, max_images: int | None, title: str
) -> Figure:
    """A row for each query: itself, then its neighbours with label and cosine; those of another class are marked.

    Args:
        data: both features are of.
        train: features of the training images.
        val: features of the validation images.
        near: as by `find`.
        max_images: the subset that `train` is of.
        title: of the picture.
    """
    train_index, val_index = train.index.cpu(), val.index.cpu()
    shown = clean_pictures(data, "val", val_index[near.query])
    bank = clean_pictures(data, "train", train_index[near.row], max_images)
    rows = []
    for query, row, cosine in zip(*(column.tolist() for column in near), strict=True):
        label = int(val.label[query])
        cells = [Cell(shown[int(val_index[query])], _named(data, label))]
        for j, similarity in zip(row, cosine, strict=True):
            other = int(train.label[j])
            known = label >= 0 and other >= 0
            caption = f"{_named(data, other)}\n{similarity:.3f}".removeprefix("\n")
            kind = ("same" if other == label else "other") if known else ""
            cells.append(Cell(bank[int(train_index[j])], caption, kind))
        rows.append(cells)
    heads = ["query", *(f"nearest {j + 1}" if j == 0 else str(j + 1) for j in range(near.row.shape[1]))]
    return picture_sheet(rows, title, _note(data, train, val, near), heads, apart=True)


def _named(data: ImageDataModule, label: int) -> str:
    return class_name(data, label) if label >= 0 else ""


def _note(data: ImageDataModule, train: Features, val: Features, near: Near) -> str:
    name, k = type(data).__name__, near.row.shape[1]
    told = (
        f"{len(near.query)} evenly drawn of {len(val.h):,} validation images of {name}, and the {k} nearest of "
        f"{len(train.h):,} training images by cosine, which stands below each."
    )
    other = val.label[near.query].cpu()[:, None] != train.label.cpu()[near.row]
    if (val.label < 0).any() or (train.label < 0).any():
        return told
    return f"{told} A dashed red frame marks another class: {int(other.sum())} of {other.numel()}."
