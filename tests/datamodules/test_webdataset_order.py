"""The order of shards: each sample once, on any ranks, within a window, and the same after a resume."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules import WebDataset
from datamodules.masks import MaskedSource, write_masks
from datamodules.randomness import permutation
from datamodules.sampling import TrainSampler, WindowedOrder
from tests.datamodules.tars import write_shards
from tests.datamodules.toys import Recorder, trainer
from tests.support.ranks import in_process, on_ranks

SIZES = [7, 1, 12, 5, 0, 9, 3]  # 37 samples
SHARD = np.repeat(np.arange(len(SIZES)), SIZES)


def runs(order: np.ndarray, shard: np.ndarray, window: int) -> list[set[int]]:
    """The shards that each window of an epoch reads, told from the order alone."""
    found: list[set[int]] = [set()]
    for s in shard[order].tolist():
        if s not in found[-1] and len(found[-1]) == window:
            found.append(set())
        found[-1].add(s)
    return found


@pytest.mark.parametrize("window", [1, 2, 3, 5])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_each_sample_once_and_within_so_many_shards_at_a_time(window, epoch):
    order = WindowedOrder(SHARD, window)(3, epoch)
    assert sorted(order.tolist()) == list(range(37))
    windows = runs(order, SHARD, window)
    assert len(windows) == -(-6 // window) and sum(len(shards) for shards in windows) == 6


def test_order_follows_from_seed_and_epoch_and_mixes_within_a_window():
    order = WindowedOrder(SHARD, 2)
    assert np.array_equal(order(1, 4), WindowedOrder(SHARD, 2)(1, 4))
    assert not np.array_equal(order(1, 4), order(1, 5)) and not np.array_equal(order(1, 4), order(2, 4))
    firsts = {frozenset(runs(order(0, epoch), SHARD, 2)[0]) for epoch in range(60)}
    assert len(firsts) == 15  # any two of six shards may come first
    assert len({int(order(0, epoch)[0]) for epoch in range(200)}) > 30
    of_largest = [order(0, e)[SHARD[order(0, e)] == 2].tolist() for e in range(9)]
    assert all(rows != sorted(rows) for rows in of_largest)


@pytest.mark.parametrize("window", [6, 100])
def test_a_window_of_all_shards_is_the_full_shuffle(window):
    assert np.array_equal(WindowedOrder(SHARD, window)(5, 2), permutation(5, 2, 37))


def test_a_subset_keeps_to_its_shards():
    rows = np.array([0, 1, 8, 9, 10, 30, 33, 36])
    part = WindowedOrder(SHARD, 2).within(rows)
    order = part(0, 3)
    assert sorted(order.tolist()) == list(range(8))
    assert [len(shards) for shards in runs(order, SHARD[rows], 2)] == [2, 2]


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_share_the_batches_of_one_process_without_loss(window, world_size):
    order = WindowedOrder(SHARD, window) if window else None
    alone = [rows.tolist() for _, rows in TrainSampler(37, 2 * world_size, 0, 1, seed=3, order=order)]
    ranks = [
        [rows.tolist() for _, rows in TrainSampler(37, 2, rank, world_size, seed=3, order=order)]
        for rank in range(world_size)
    ]
    assert [sum(parts, []) for parts in zip(*ranks, strict=True)] == alone
    seen = sum(alone, [])
    assert len(set(seen)) == len(seen) == 37 - 37 % (2 * world_size)


class Die(Callback):
    """Ends the process without a word before the step with this number."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(rank: int, shards: str, folder: str, ranks: int = 1, resume: bool = False, **options: Any) -> dict[str, Any]:
    """Two epochs with a checkpoint every second step: the images of each step of this rank, and the sums of views."""
    if ranks > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), TORCHELASTIC_RUN_ID="tests")
    kill_at, workers, window = options.get("kill_at"), options.get("workers", 0), options.get("window", 2)
    seed_everything(11, verbose=False)
    module = Recorder()
    checkpoint = ModelCheckpoint(
        Path(folder) / "checkpoints", every_n_train_steps=2, save_last=True, enable_version_counter=False
    )
    data = WebDataset(
        shards, shuffle_shards=window, batch_size=4 // ranks, image_size=16, cache="none", num_workers=workers
    )
    runner = trainer(
        max_epochs=2,
        enable_checkpointing=True,
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        num_sanity_val_steps=0,
        callbacks=[checkpoint, Die(kill_at)],
    )
    last = Path(folder) / "checkpoints" / "last.ckpt"
    runner.fit(module, data, ckpt_path=str(last) if resume else None)
    steps = [
        (step, batch.index.tolist(), float(batch.global_views[0].double().sum()))
        for step, batch in module.train_batches
    ]
    return {"steps": steps, "weight": module.layer.weight.item()}


@pytest.fixture
def shards(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_shards(tmp_path / "shards", SIZES)
    return str(write_shards(tmp_path / "shards", [3], "val"))


@pytest.mark.process
@pytest.mark.parametrize(("workers", "kill_at"), [(0, 5), (2, 13)])
def test_killed_amid_an_epoch_of_shards_and_resumed(shards, tmp_path, workers, kill_at):
    options = {"workers": workers}
    expected = in_process(fit, 0, shards, str(tmp_path / "whole"), **options)
    assert in_process(fit, 0, shards, str(tmp_path / "broken"), kill_at=kill_at, **options) == -signal.SIGKILL
    actual = in_process(fit, 0, shards, str(tmp_path / "broken"), resume=True, **options)
    saved = kill_at - kill_at % 2
    assert len(expected["steps"]) == 18 and actual["steps"] == expected["steps"][saved:]
    assert actual["weight"] == expected["weight"]
    for epoch in (expected["steps"][:9], expected["steps"][9:]):
        seen = sum((index for _, index, _ in epoch), [])
        assert len(set(seen)) == 36
        assert max(len(shards_read) for shards_read in runs(np.array(seen), SHARD, 2)) == 2


@pytest.mark.ddp
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_two_ranks_read_every_sample_once_and_resume_exactly(shards, tmp_path, workers):
    one = in_process(fit, 0, shards, str(tmp_path / "one"))
    two = on_ranks(2, _on_two, shards, str(tmp_path / "two"), None, False, workers)
    together = [a[1] + b[1] for a, b in zip(two[0]["steps"], two[1]["steps"], strict=True)]
    assert together == [index for _, index, _ in one["steps"]]
    on_ranks(2, _on_two, shards, str(tmp_path / "broken"), 5, False, workers, may_die=True)
    resumed = on_ranks(2, _on_two, shards, str(tmp_path / "broken"), None, True, workers)
    for rank in range(2):
        assert resumed[rank]["steps"] == two[rank]["steps"][4:] and resumed[rank]["weight"] == two[rank]["weight"]


def _on_two(rank: int, shards: str, folder: str, kill_at: int | None, resume: bool, workers: int) -> dict[str, Any]:
    return fit(rank, shards, folder, 2, resume, kill_at=kill_at, workers=workers)


def test_masks_leave_the_order_alone(shards, tmp_path):
    source, _ = WebDataset(shards, shuffle_shards=2).sources()
    write_masks(tmp_path / "masks", source, [np.ones((37, 8, 8), dtype=bool)], "WebDataset", "none")
    assert source.order is not None and MaskedSource(source, str(tmp_path / "masks")).order is source.order


def test_the_data_module_hands_the_order_to_training_through_every_subset(shards):
    data = WebDataset(shards, shuffle_shards=1, batch_size=4, image_size=16, num_workers=0, max_train_images=20)
    data.setup("fit")
    rows = torch.cat([torch.from_numpy(rows) for _, rows in data.train_dataloader().sampler])
    shard = SHARD[data._splits.sources["train"].rows]
    assert len(rows) == 20
    assert max(len(shards_read) for shards_read in runs(rows.numpy(), shard, 1)) == 1
    assert len(runs(rows.numpy(), shard, 1)) == len(np.unique(shard))
