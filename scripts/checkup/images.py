"""A look at the images of a data module, before a Trainer spends hours on them."""

from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from datamodules.decode import UnreadableError
from datamodules.sources import Source
from scripts.checkup.facts import DataFacts

SAMPLE = 256  # pictures that are decoded


def data_facts(data: LightningDataModule, loader: Any, val_loader: Any) -> DataFacts:
    """What a data module says of itself, and what a sample of its training pictures shows.

    Args:
        data: after `setup`; of ours, or a user's own that says less.
        loader: of its training views.
        val_loader: of its validation images.
    """
    batches, val_batches = getattr(loader, "dataset", None), getattr(val_loader, "dataset", None)
    split = getattr(batches, "split", None)
    source, val = getattr(split, "source", None), getattr(getattr(val_batches, "split", None), "source", None)
    specs = list(getattr(data, "specs", []))
    counts = {role: sum(spec.count for spec in specs if spec.role == role) for role in ("global", "local")}
    sampled, unreadable, side = sample(source) if isinstance(source, Source) else (0, (), None)
    cache = getattr(split, "cache", None)
    return DataFacts(
        train_images=getattr(data, "num_train_images", None),
        val_images=None if val is None else len(val),
        num_classes=getattr(data, "num_classes", None),
        labelled=labelled_share(getattr(source, "labels", None)),
        val_labelled=labelled_share(getattr(val, "labels", None)),
        sampled=sampled,
        unreadable=unreadable,
        stops_at_unreadable=getattr(data, "unreadable", "skip") == "stop",
        shorter_side=side,
        global_size=max((spec.size for spec in specs if spec.role == "global"), default=None),
        num_global_views=counts["global"] if specs else None,
        num_local_views=counts["local"],
        batch_size=getattr(data, "batch_size", None),
        num_workers=getattr(loader, "num_workers", 0),
        cache_bytes=0 if cache is None else cache.images.nbytes,
    )


def sample(source: Source, count: int = SAMPLE) -> tuple[int, tuple[str, ...], int | None]:
    """Decodes pictures spread evenly over a source.

    Returns:
        How many were tried, those that cannot be read with the reason, and the median of the others' shorter sides.
    """
    rows = torch.linspace(0, len(source) - 1, min(count, len(source))).round().long().tolist()
    unreadable, sides = [], []
    for i in rows:
        try:
            sides.append(min(source.image(i).shape[1:]))
        except UnreadableError as error:
            unreadable.append(f"{error.name} ({error.reason})")
    return len(rows), tuple(unreadable), int(np.median(sides)) if sides else None


def labelled_share(labels: Tensor | None) -> float | None:
    """Share of the images with a label; None where there are no labels to look at."""
    return None if labels is None or not len(labels) else float((labels >= 0).double().mean())
