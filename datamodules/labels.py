"""Which of the training images take part: all, a share of each class by a published draw, or all but a held-out part.

Semi-supervised tables (1 % or 10 % of the labels) compare only where everybody trains on the same images. So the draw
is a function of labels, share and seed alone, and is made of integer arithmetic of our own
(`datamodules.randomness`), not of a library's generator, whose stream may change with its version. The lists for
CIFAR-10 lie under configs/eval/labels/.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.checks import check_labels
from datamodules.errors import UserError
from datamodules.randomness import uniform
from datamodules.sources import Source, Subset, hold_out, subset_rows

_STREAM = 0x4C41424C  # "LABL": keeps these numbers apart from other uses of randomness for the same image


def draw_labelled(labels: Tensor, fraction: float, seed: int) -> np.ndarray:
    """The same share of every class, without those of no label.

    Every image has a number that follows from the seed and its position; a class gives its images of the lowest
    numbers, so a smaller share of the same seed lies within a larger one.

    Args:
        labels: [N] int64, -1 where unknown.
        fraction: share of each class, in (0, 1]; rounded to whole images (halves to even), at least one of a class.
        seed: which draw.

    Returns:
        [n] int64 rows, ascending.

    Raises:
        UserError: there are no labels, or the fraction is none.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"data.label_fraction is {fraction}; it must lie above 0 and be at most 1, for example 0.01.")
    classes = labels.numpy()
    if not (classes >= 0).any():
        raise UserError("data.label_fraction draws images class by class, but the data has no labels: leave it out.")
    number = uniform(seed, 0, torch.arange(len(classes)), _STREAM, 1).numpy()[:, 0]
    order = np.argsort(number, kind="stable")
    ranked = [order[classes[order] == c] for c in np.unique(classes[classes >= 0])]
    return np.sort(np.concatenate([rows[: max(1, round(fraction * len(rows)))] for rows in ranked]))


def taking_part(data: Any, train: Source, val: Source) -> tuple[Subset, Subset]:
    """The images that a data module trains and validates on, as its arguments narrow the data set down.

    Args:
        data: an `ImageDataModule`, for its `max_train_images`, `label_fraction`, `label_seed`, `held_out` and
            `max_val_images`, which apply in this order.
        train: all training images.
        val: all validation images.

    Returns:
        The training images, and the validation images (with `held_out`, those are training images too).

    Raises:
        UserError: the labels of a source, or an argument, are not what they should be.
    """
    check_sources(train, val)
    rows = subset_rows(len(train), data.max_train_images)
    if data.label_fraction is not None:
        rows = rows[draw_labelled(train.labels[torch.from_numpy(rows)], data.label_fraction, data.label_seed)]
    val_rows = np.arange(len(val))
    if data.held_out is not None:
        if not 0 < data.held_out < 1:
            raise UserError(f"data.held_out is {data.held_out}; it must lie between 0 and 1, for example 0.1.")
        kept, held = hold_out(train.labels[torch.from_numpy(rows)], data.held_out)
        rows, val, val_rows = rows[kept], train, rows[held]
    return Subset(train, rows), Subset(val, val_rows[subset_rows(len(val_rows), data.max_val_images)])


def check_sources(train: Source, val: Source) -> None:
    """Refuses labels that are not one class an image, and validation that has other classes than training.

    Args:
        train: all training images.
        val: all validation images.

    Raises:
        UserError: labels are of another kind, below -1 or not below the number of classes, or class names differ.
    """
    check_labels(train.labels, "training labels")
    check_labels(val.labels, "validation labels")
    if train.num_classes is not None and val.class_names not in (None, train.class_names):
        raise UserError(
            f"The classes of training are {_listed(train)}, those of validation {_listed(val)}: both sources must have "
            "the same class_names, those of training."
        )
    _check_range(train.labels, train.num_classes, "training labels")
    _check_range(val.labels, train.num_classes, "validation labels")


def _check_range(labels: Tensor, num_classes: int | None, title: str) -> None:
    if not len(labels):
        return
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < -1 or (num_classes is not None and highest >= num_classes):
        known = "" if num_classes is None else f", and 0 to {num_classes - 1} for the {num_classes} classes of training"
        raise UserError(
            f"The {title} go from {lowest} to {highest}; allowed is -1 where unknown{known}: number the classes of "
            "training and validation alike, name all of them in class_names, or give -1 to images of no class."
        )


def _listed(source: Source) -> str:
    """The classes in a few words."""
    names = source.class_names
    return f"{source.num_classes} numbers" if names is None else ", ".join(names[:5]) + ", ..." * (len(names) > 5)
