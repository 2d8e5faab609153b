"""Finds pictures of a source that are all but the same, by thumbnails or by the features of a trained network."""

import os
import time
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.augment import CleanView
from datamodules.cache import Split
from datamodules.loading import CleanBatches, RawBatch, default_workers
from datamodules.sampling import EvalSampler
from datamodules.sources import Source
from scripts.checkup.pairs import cosines, groups_of

Keep = Literal["first", "largest"]
THUMBNAIL = 16  # pixels
BATCH = 256


class Found(NamedTuple):
    """What the comparison of N pictures came to.

    Attributes:
        readable: [N] bool.
        kept: [N] int64, the picture that stays of its group: itself where nothing is like it.
        cosine: [N] with the one that stays.
    """

    readable: np.ndarray
    kept: np.ndarray
    cosine: np.ndarray

    @property
    def repeated(self) -> np.ndarray:
        """[n] int64: the pictures that go."""
        return np.flatnonzero(self.kept != np.arange(len(self.kept)))

    @property
    def unique(self) -> np.ndarray:
        """[n] int64: the pictures that stay."""
        return np.flatnonzero(self.readable & (self.kept == np.arange(len(self.kept))))


def find(source: Source, view: CleanView, network: nn.Module | None, threshold: float, keep: Keep) -> Found:
    """Compares every picture with every other.

    Args:
        source: the pictures.
        view: how they are resized, cropped and normalised; with mean 0 and deviation 1 for thumbnails.
        network: maps [B, C, H, W] to [B, D]; None for thumbnails.
        threshold: least cosine of a pair.
        keep: which picture of a group stays: the first, or the largest file.
    """
    features, readable = describe(source, view, network)
    group = groups_of(features, threshold)
    kept = largest_of(group, source) if keep == "largest" else group
    return Found(readable, kept, cosines(features, kept).numpy())


@torch.no_grad()
def describe(source: Source, view: CleanView, network: nn.Module | None) -> tuple[Tensor, np.ndarray]:
    """What stands for each picture in the comparison; tells of those that cannot be read.

    The mean over all pictures is taken off features, else all cosines would be near 1.

    Returns:
        [N, D] of unit norm, zeros where a picture cannot be read, on the accelerator if there is one; and [N] bool,
        which can be read.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    embed = thumbnails if network is None else network.to(device).eval()
    batches = CleanBatches(Split("train", source, "skip", len(view.normalize.mean), None), view)
    sampler = EvalSampler(np.arange(len(source)), BATCH, 0, 1)
    parts, readable, started = [], np.zeros(len(source), dtype=bool), time.perf_counter()
    for batch in DataLoader(batches, sampler=sampler, batch_size=None, num_workers=default_workers(1)):
        assert isinstance(batch, RawBatch), "pictures that cannot be read are skipped, not refused"
        for fault in batch.faults:
            print(f"left out: {fault.name}: {fault.reason}")
        parts.append(embed(view(batch.images[0].to(device))).float())
        readable[batch.index[batch.index >= 0].numpy()] = True
    print(f"{len(source)} pictures read, {len(source) / (time.perf_counter() - started):.0f} a second", flush=True)
    features, known = torch.cat(parts), torch.from_numpy(readable).to(device)
    if network is not None and readable.any():
        features = features - features[known].mean(0)
    return F.normalize(features, dim=1) * known[:, None], readable


def thumbnails(images: Tensor) -> Tensor:
    """[B, C, H, W] in [0, 1] to [B, 256]: 16 x 16 grey values less their mean, so that brightness does not count."""
    grey = F.adaptive_avg_pool2d(images.mean(1, keepdim=True), THUMBNAIL).flatten(1)
    return grey - grey.mean(1, keepdim=True)


def largest_of(group: np.ndarray, source: Source) -> np.ndarray:
    """[N] int64: for each picture the largest file of its group, of equal ones the first.

    Args:
        group: [N] int64, see `groups_of`.
        source: picture files.
    """
    size = np.array([os.path.getsize(source.name(i)) for i in range(len(group))])
    order = np.lexsort((-size, group))  # by group, in it the largest first; stable
    firsts, start = np.unique(group[order], return_index=True)
    return order[start][np.searchsorted(firsts, group)]
