"""Neighbours and their vote against loops; what the monitor counts, remembers and says."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks import KNNMonitor
from callbacks.neighbours import Bank, vote
from datamodules.errors import UserError
from tests.support.ranks import on_ranks
from tests.support.replay import Prepared, Replay, batches, quiet_trainer, watch

C, D = 4, 3


def features(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, C, (count,), generator=generator)
    return torch.randn(count, D, generator=generator) + 0.5 * F.one_hot(label, C)[:, :D], label


def naive(query: Tensor, bank: Tensor, labels: Tensor, k: int, temperature: float) -> int:
    """One query's class, neighbour by neighbour."""
    scored = [
        (float(query.double() @ h.double() / query.double().norm() / h.double().norm()), int(label))
        for h, label in zip(bank, labels, strict=True)
        if label >= 0
    ]
    votes = [0.0] * C
    for similarity, label in sorted(scored, reverse=True)[:k]:
        votes[label] += math.exp(similarity / temperature)
    return votes.index(max(votes))


def one_rank(h: Tensor, labels: Tensor) -> Bank:
    return Bank(h, labels, lambda x: x[None], 1)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("k", [1, 5, 29, 1000])
def test_vote_equals_a_loop(k, temperature):
    h, labels = features(40, 0)
    labels[::4] = -1  # unknown: no neighbour
    queries, _ = features(25, 1)
    similarity, neighbours = one_rank(10 * h, labels).nearest(queries, k)
    assert similarity.shape == (25, min(k, 30))
    assert (similarity.diff(dim=1) <= 0).all()
    expected = [naive(query, h, labels, k, temperature) for query in queries]
    assert vote(similarity, neighbours, k, temperature, C).tolist() == expected


def test_several_numbers_of_neighbours_from_one_list():
    h, labels = features(40, 0)
    queries, _ = features(25, 1)
    longest = one_rank(h, labels).nearest(queries, 20)
    for k in (1, 7, 20):
        own = one_rank(h, labels).nearest(queries, k)
        assert torch.equal(vote(*longest, k, 0.1, C), vote(*own, k, 0.1, C))


def test_sharp_votes_stay_finite():
    similarity = torch.tensor([[1.0, 0.999, 0.998]])
    assert vote(similarity, torch.tensor([[1, 0, 0]]), 3, 1e-5, C).tolist() == [1]  # exp(1 / 1e-5) overflows


def shards(count: int) -> list[slice]:
    """Of two ranks, the first has the larger share."""
    return [slice(0, count - 12), slice(count - 12, count)]


def gather_all(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts)


def on_rank(rank: int, h: np.ndarray, labels: np.ndarray, queries: np.ndarray, ks: list[int]) -> list[np.ndarray]:
    mine = shards(len(h))[rank]
    bank = Bank(torch.from_numpy(h[mine]), torch.from_numpy(labels[mine]), gather_all, 2)
    own_queries = torch.from_numpy(queries).chunk(2)[rank]
    return [vote(*bank.nearest(own_queries, k), k, 0.1, C).numpy() for k in ks]


@pytest.mark.ddp
def test_two_ranks_find_what_one_process_finds():
    (h, labels), (queries, _) = features(30, 0), features(16, 1)
    labels[-5:-1] = -1  # so that the shares differ even more
    ks = [1, 5, 20, 100]  # more than a share, more than the whole bank
    answers = on_ranks(2, on_rank, h.numpy(), labels.numpy(), queries.numpy(), ks)
    for place, k in enumerate(ks):
        expected = vote(*one_rank(h, labels).nearest(queries, k), k, 0.1, C)
        assert np.concatenate([answer[place] for answer in answers]).tolist() == expected.tolist()


def accuracy(h: Tensor, label: Tensor, bank: tuple[Tensor, Tensor], k: int, temperature: float = 0.07) -> float:
    right = [naive(query, *bank, k, temperature) == int(c) for query, c in zip(h, label, strict=True) if c >= 0]
    return sum(right) / len(right)


def test_counts_each_labelled_image_once():
    train, (val_h, val_label) = features(40, 0), features(61, 1)
    val_label[3::5] = -1  # unknown images, and rows that only pad
    monitor = KNNMonitor(k=[5, 1, 25], temperature=1.0)  # so that the last neighbours matter as well
    trainer = watch(monitor, Prepared(batches(*train, 8), batches(val_h, val_label, 6), C))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["knn/val_top1"] == pytest.approx(accuracy(val_h, val_label, train, 5, 1.0))
    assert logged["knn/val_top1_k1"] == pytest.approx(accuracy(val_h, val_label, train, 1, 1.0))
    assert logged["knn/val_top1_k25"] == pytest.approx(accuracy(val_h, val_label, train, 25, 1.0))
    baselines = {"knn/pixels_top1", "knn/untrained_top1"}
    assert set(logged) == {"knn/val_top1", "knn/val_top1_k1", "knn/val_top1_k25"} | baselines
    # Here the network hands its images on, so that both baselines are the value itself.
    assert {logged[name] for name in baselines} == {logged["knn/val_top1"]}


def test_a_small_bank_lets_all_vote_and_says_so():
    train, val = features(8, 0), features(9, 1)
    with pytest.warns(UserWarning, match="fewer images than k = 50"):
        trainer = watch(KNNMonitor(k=[50]), Prepared(batches(*train, 4), batches(*val, 9), C))
    assert float(trainer.callback_metrics["knn/val_top1"]) == pytest.approx(accuracy(*val, train, 50))


@pytest.mark.parametrize("size", [1, 12, 14])
def test_recent_bank_is_the_newest_training_features(size):
    train, val = features(40, 0), features(20, 1)
    monitor = KNNMonitor(k=[5], bank="recent", bank_size=size)
    if size < 5:
        with pytest.warns(UserWarning, match="fewer images"):
            trainer = watch(monitor, Prepared(batches(*train, 8), batches(*val, 10), C))
    else:
        trainer = watch(monitor, Prepared(batches(*train, 8), batches(*val, 10), C))
    newest = (train[0][-size:], train[1][-size:])
    assert float(trainer.callback_metrics["knn/val_top1"]) == pytest.approx(accuracy(*val, newest, 5))
    assert set(trainer.callback_metrics) == {"knn/val_top1"}  # no clean images, no baselines
    assert sum(len(label) for _, label in monitor.recent) < size + 8  # what is kept is bounded


def test_recent_bank_does_not_copy_itself_at_every_step():
    h, label = features(8, 0)
    monitor = KNNMonitor(k=[5], bank="recent", bank_size=32)
    watch(monitor, Prepared(batches(h.repeat(4, 1), label.repeat(4), 8), batches(h, label, 8), C))
    kept = {batch.data_ptr() for batch, _ in monitor.recent}
    data = Prepared(batches(h, label, 8), batches(h, label, 8), C)
    trainer = quiet_trainer([monitor])
    trainer.fit(Replay(D), datamodule=data)
    assert len(kept & {batch.data_ptr() for batch, _ in monitor.recent}) == 3


def test_recent_bank_and_baselines_survive_a_resume(tmp_path):
    train, val = features(40, 0), features(20, 1)
    data = Prepared(batches(*train, 8), batches(*val, 10), C)
    first = KNNMonitor(k=[5], bank="recent", bank_size=12)
    trainer = watch(first, data)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = KNNMonitor(k=[5], bank="recent", bank_size=12)
    resumed = watch(again, data, tmp_path / "one.ckpt", max_epochs=2, limit_train_batches=0)
    assert not resumed.callback_metrics  # the run was over, nothing was measured
    assert [v.tolist() for v in again.rank_state().values()] == [v.tolist() for v in first.rank_state().values()]

    exact = KNNMonitor(k=[5])
    watch(exact, data).save_checkpoint(tmp_path / "two.ckpt")
    restored = KNNMonitor(k=[5])
    trainer = watch(restored, data, tmp_path / "two.ckpt", max_epochs=2)
    assert restored.baselines == exact.baselines != {}
    assert float(trainer.callback_metrics["knn/untrained_top1"]) == exact.baselines["knn/untrained_top1"]


class Frozen(Replay):
    """Has a part that must stay in evaluation, and forgets nothing of what it was asked to embed."""

    def __init__(self) -> None:
        super().__init__(D)
        self.tokenizer = nn.Dropout().eval()
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        return images


class Modes(KNNMonitor):
    """Notes the modes that training begins with."""

    def on_train_start(self, trainer, pl_module) -> None:
        super().on_train_start(trainer, pl_module)
        self.after = (pl_module.training, pl_module.tokenizer.training)


@pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode")  # that it stays is the point
def test_measuring_leaves_every_module_in_its_mode():
    train, val = features(16, 0), features(8, 1)
    module, monitor = Frozen(), Modes(k=[5])
    quiet_trainer([monitor]).fit(module, datamodule=Prepared(batches(*train, 8), batches(*val, 8), C))
    assert monitor.after == (True, False)
    assert not any(module.modes)  # it was in evaluation whenever it embedded


def test_without_labels_it_is_off():
    h, label = features(16, 0)
    trainer = watch(KNNMonitor(), Prepared(batches(h, label, 8), batches(h, label, 8), None))
    assert not trainer.callback_metrics


class NoCleanImages(Prepared):
    """A data module that cannot show its training images as they are."""

    clean_batches = property()  # hasattr says no


def test_a_data_module_without_clean_images_is_told_of_the_other_bank():
    h, label = features(16, 0)
    data = NoCleanImages(batches(h, label, 8), batches(h, label, 8), C)
    with pytest.raises(UserError, match="NoCleanImages.*bank to recent"):
        watch(KNNMonitor(), data)
    assert watch(KNNMonitor(k=[3], bank="recent"), data).callback_metrics


@pytest.mark.parametrize("settings", [{"k": []}, {"k": [5, 0]}, {"temperature": 0.0}, {"bank_size": 0}])
def test_impossible_settings_are_named(settings):
    with pytest.raises(UserError, match="must be >= 1"):
        KNNMonitor(**settings)


def test_the_protocol_says_what_the_number_is():
    exact = KNNMonitor(k=[20, 200], temperature=0.1, bank_size=1000).protocol()
    assert exact == "cosine, weighted by exp(s/0.1), k 20, 200, bank of up to 1000 clean training images"
    assert KNNMonitor(bank="recent").protocol().endswith("recent augmented training features")
