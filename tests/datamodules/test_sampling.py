"""Who sees which image when, without processes: rank and world size are arguments."""

import numpy as np
import pytest

from datamodules.errors import UserError
from datamodules.randomness import permutation
from datamodules.sampling import EvalSampler, TrainSampler


def batches(sampler: TrainSampler, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return [rows.tolist() for _, rows in sampler]


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_all_ranks_together_see_the_batches_of_one_process(world_size):
    alone = batches(TrainSampler(103, 4 * world_size, 0, 1, seed=7), epoch=3)
    ranks = [batches(TrainSampler(103, 4, rank, world_size, seed=7), epoch=3) for rank in range(world_size)]
    assert alone == [sum(parts, []) for parts in zip(*ranks, strict=True)]
    assert len(alone) == 103 // (4 * world_size)


def test_order_is_that_of_seed_and_epoch_and_no_image_comes_twice():
    sampler = TrainSampler(20, 6, 0, 1, seed=1)
    first, second = batches(sampler, 0), batches(sampler, 1)
    assert sum(first, []) == permutation(1, 0, 20)[:18].tolist()
    assert sum(second, []) == permutation(1, 1, 20)[:18].tolist()
    assert len(set(sum(first, []))) == 18
    assert first != batches(TrainSampler(20, 6, 0, 1, seed=2), 0)


def test_epoch_travels_with_the_batch():
    sampler = TrainSampler(8, 4, 0, 1, seed=0)
    sampler.set_epoch(5)
    assert [epoch for epoch, _ in sampler] == [5, 5]


def test_without_reshuffling_every_epoch_has_the_order_of_the_first():
    sampler = TrainSampler(20, 6, 0, 1, seed=1, reshuffle=False)
    assert batches(sampler, 4) == batches(sampler, 0)


def test_start_amid_an_epoch_gives_its_remaining_batches_and_counts_all():
    places = iter([(2, 3), (3, 0)])
    sampler = TrainSampler(50, 10, 0, 1, seed=4, position=lambda: next(places))
    whole = TrainSampler(50, 10, 0, 1, seed=4)
    resumed = [(epoch, rows.tolist()) for epoch, rows in sampler]
    assert resumed == [(2, rows) for rows in batches(whole, 2)[3:]]
    assert len(sampler) == 5
    assert [rows.tolist() for _, rows in sampler] == batches(whole, 3)


def test_too_few_images_for_one_batch():
    with pytest.raises(
        UserError, match=r"30 training images, fewer than one batch of 32 \(16 on each of 2 ranks\).*15"
    ):
        TrainSampler(30, 16, 0, 2, seed=0)


@pytest.mark.parametrize(("num_images", "world_size", "batch_size"), [(10, 1, 4), (10, 3, 2), (7, 4, 8), (8, 2, 2)])
def test_evaluation_sees_each_image_once_and_keeps_ranks_in_step(num_images, world_size, batch_size):
    rows = np.arange(100, 100 + num_images)
    ranks = [list(EvalSampler(rows, batch_size, rank, world_size)) for rank in range(world_size)]
    seen = np.concatenate([batch for rank in ranks for batch in rank])
    assert sorted(seen[seen >= 0]) == rows.tolist()
    whole = num_images // world_size
    for rank, share in enumerate(ranks):  # strided
        assert np.concatenate(share)[:whole].tolist() == rows[rank::world_size][:whole].tolist()
    sizes = [[len(batch) for batch in rank] for rank in ranks]
    assert all(size == sizes[0] for size in sizes)
    assert (seen < 0).sum() == -num_images % world_size
    assert [len(EvalSampler(rows, batch_size, rank, world_size)) for rank in range(world_size)] == [
        len(sizes[0])
    ] * world_size
