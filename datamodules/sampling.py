"""Which images make up which batch, on which rank: pure functions of the position in the run.

Both samplers yield whole batches, for a `DataLoader` with `batch_size=None`. They are `DistributedSampler`s, which
Lightning leaves in place under DDP and tells the epoch, and `SequentialSampler`s, which it leaves in place under
`overfit_batches`; of both classes they use nothing but the name.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from pytorch_lightning import Trainer
from torch.utils.data import DistributedSampler, SequentialSampler

from datamodules.errors import UserError
from datamodules.randomness import fold, permutation

_SHARDS = 0x53484152  # "SHAR": keeps the order of shards apart from that of images


class WindowedOrder:
    """A random order of all images that stays within a few shards at a time, where reads across all would be slow.

    The shards of an epoch come in random order and are taken `window` at a time; the images of these few are shuffled
    together. With a window of all shards it is the full shuffle, number for number.
    """

    def __init__(self, shard: np.ndarray, window: int) -> None:
        """Holds on to the numbers.

        Args:
            shard: [N] int64, the shard that holds each image.
            window: shards that are read from at a time, at least 1.
        """
        self.shard = np.unique(shard, return_inverse=True)[1]  # numbers without gaps, as a subset would leave them
        self.window = window

    def within(self, rows: np.ndarray) -> "WindowedOrder":
        """The order of the images `rows` [n] alone, renumbered from 0."""
        return WindowedOrder(self.shard[rows], self.window)

    def __call__(self, seed: int, epoch: int) -> np.ndarray:
        """[N] int64: the order in which an epoch visits the images; a pure function, on all ranks the same."""
        shards = permutation(fold(seed, _SHARDS), epoch, int(self.shard.max(initial=-1)) + 1)
        place = np.argsort(shards)  # of each shard in this epoch
        shuffled = permutation(seed, epoch, len(self.shard))
        window = place[self.shard[shuffled]] // self.window
        return shuffled[np.argsort(window, kind="stable")]


class TrainSampler(DistributedSampler, SequentialSampler):
    """Batches in a new order each epoch; the last, incomplete one is left out.

    The global batch is a run of the epoch's order, and each rank takes its block of it: all ranks together see the
    batch that one process with the global batch size would see.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        position: Callable[[], tuple[int, int]] | None = None,
        reshuffle: bool = True,
        order: WindowedOrder | None = None,
    ) -> None:
        """Computes nothing yet.

        Args:
            num_images: images in the data set.
            batch_size: images per rank.
            rank: this process.
            world_size: number of processes.
            seed: seed of the run.
            position: tells epoch and batch to begin at, asked for the first batch; None for the beginning of the epoch
                that `set_epoch` names.
            reshuffle: a new order in each epoch; otherwise that of epoch 0.
            order: tells the order of an epoch; None for any order with equal chance, `randomness.permutation`.
        """
        global_batch_size = batch_size * world_size
        if num_images < global_batch_size:
            per_rank = f" ({batch_size} on each of {world_size} ranks)" if world_size > 1 else ""
            raise UserError(
                f"There are {num_images} training images, fewer than one batch of {global_batch_size}{per_rank}: "
                f"set data.batch_size to at most {num_images // world_size}, or add images."
            )
        self.num_images = num_images
        self.batch_size = batch_size
        self.rank = rank
        self.num_replicas = world_size
        self.seed = seed
        self.position = position
        self.epoch = 0
        self.reshuffle = reshuffle
        self.order = order or partial(permutation, size=num_images)

    def __len__(self) -> int:
        """Batches in a whole epoch, also in one that is entered midway: Lightning counts from its beginning."""
        return self.num_images // (self.batch_size * self.num_replicas)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """The epoch, for the draws of the views, and [B] int64 positions of the images."""
        epoch, first = self.position() if self.position else (self.epoch, 0)
        order = self.order(self.seed, epoch if self.reshuffle else 0)
        for batch in range(first, len(self)):
            begin = (batch * self.num_replicas + self.rank) * self.batch_size
            yield epoch, order[begin : begin + self.batch_size]


class EvalSampler(DistributedSampler, SequentialSampler):
    """Each image exactly once over all ranks, and on all ranks batches of the same number and sizes.

    Where the images do not divide, rows of -1 pad the last batch: collective operations on features then need no
    thought.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, rank: int, world_size: int) -> None:
        """Takes this rank's share.

        Args:
            rows: [N] int64, positions of the images to see.
            batch_size: images per rank.
            rank: this process.
            world_size: number of processes.
        """
        share = -(-len(rows) // world_size)
        padded = np.full(share * world_size, -1, dtype=np.int64)
        padded[: len(rows)] = rows
        self.rows = padded[rank::world_size]
        self.batch_size = batch_size
        self.rank = rank
        self.num_replicas = world_size
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """[B] int64 positions of the images; -1 marks padding."""
        for begin in range(0, len(self.rows), self.batch_size):
            yield self.rows[begin : begin + self.batch_size]


def next_position(trainer: Trainer) -> tuple[int, int]:
    """Epoch and batch of it that the training loop fetches next.

    Right from the loop's first `next` on, also after a restore amid an epoch, as these are the counters by which
    Lightning itself numbers the batch; before, they may not be restored yet, and `ResumableLoader` therefore waits.
    (Not the epoch that Lightning gives to `set_epoch`: a run limited by steps and restored at the end of an epoch
    counts that one twice.)
    """
    return trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready
