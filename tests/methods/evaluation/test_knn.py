"""kNN evaluation against a double loop in float64, and what it refuses."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer

from callbacks.neighbours import Bank
from datamodules.errors import UserError
from datamodules.sources import subset_rows
from methods import KNNEval
from methods.evaluation import knn
from methods.evaluation.features import extract
from methods.pretrained import load_backbone
from tests.datamodules.toys import Stereo, Toy
from tests.support.frozen import CLASSES, TRAIN, Patterns, judge, judge_on_rank, write_checkpoint
from tests.support.ranks import on_ranks

CPU = torch.device("cpu")


def naive(embed, k: int, temperature: float, raw: bool = False) -> dict[str, float]:
    """Accuracies by the definition, one image after the other."""
    bank, queries = (extract(embed, Patterns(), split, CPU, raw=raw) for split in ("train", "val"))
    right, right5, by_class = 0, 0, {c: [] for c in range(CLASSES)}
    for h, label in zip(queries.h.double(), queries.label.tolist(), strict=True):
        if label < 0:
            continue
        near = sorted(
            ((float(F.cosine_similarity(h, bank.h[i].double(), dim=0)), int(bank.label[i])) for i in range(TRAIN)),
            reverse=True,
        )
        vote: dict[int, float] = {}
        for similarity, c in [pair for pair in near if pair[1] >= 0][:k]:
            vote[c] = vote.get(c, 0.0) + math.exp(similarity / temperature)
        ranked = sorted(vote, key=lambda c: -vote[c])
        right += ranked[0] == label
        right5 += label in ranked[:5]
        by_class[label].append(ranked[0] == label)
    images = sum(map(len, by_class.values()))
    present = [sum(found) / len(found) for found in by_class.values() if found]
    return {"top1": right / images, "top5": right5 / images, "mean_per_class": sum(present) / len(present)}


def test_every_pair_is_that_of_the_definition(tmp_path):
    path = write_checkpoint(tmp_path)
    module = KNNEval(path, k=[5, 1, 30], temperature=[0.07, 1.0])
    logged = judge(module, Patterns())
    network = load_backbone(path).backbone
    for k, t in product((5, 1, 30), (0.07, 1.0)):
        assert logged[f"knn/top1_k{k}_t{t:g}"] == pytest.approx(naive(network, k, t)["top1"])
    want = naive(network, 5, 0.07)
    assert {name: logged[f"knn/{name}"] for name in want} == pytest.approx(want)
    assert want["top5"] < 1 and want["mean_per_class"] != want["top1"], "the test would see no difference"
    assert logged["knn/pixels_top1"] == pytest.approx(naive(knn.pixels, 5, 0.07, raw=True)["top1"])
    assert module.result == pytest.approx({name.removeprefix("knn/"): value for name, value in logged.items()})


def test_with_one_neighbour_only_its_class_is_among_the_five_highest(tmp_path):
    logged = judge(KNNEval(write_checkpoint(tmp_path), k=[1], baselines=False), Patterns())
    assert logged["knn/top5"] == logged["knn/top1"]


def test_the_untrained_network_is_another_and_always_the_same(tmp_path):
    torch.manual_seed(0)
    path = write_checkpoint(tmp_path)
    module = KNNEval(path, k=[5], temperature=[0.07])
    first = judge(module, Patterns())
    torch.manual_seed(5)
    fresh, again = module.untrained(), module.untrained()
    for a, b in zip(fresh.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first["knn/untrained_top1"] == pytest.approx(naive(fresh, 5, 0.07)["top1"])


def test_little_memory_changes_nothing(tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path)
    whole = judge(KNNEval(path, k=[5, 20]), Patterns())
    monkeypatch.setattr(knn, "SIMILARITIES", 3 * TRAIN)
    assert judge(KNNEval(path, k=[5, 20]), Patterns()) == whole


def test_neighbours_are_compared_in_float32_whatever_the_precision(tmp_path, monkeypatch):
    seen = []

    class Watched(Bank):
        def nearest(self, queries, k):
            similarity, labels = super().nearest(queries, k)
            seen.append((torch.is_autocast_enabled("cpu"), similarity.dtype))
            return similarity, labels

    monkeypatch.setattr(knn, "Bank", Watched)
    for precision in ("bf16-mixed", "64-true"):
        judge(KNNEval(write_checkpoint(tmp_path), k=[5]), Patterns(), precision=precision)
    assert set(seen) == {(False, torch.float32)}


def test_more_neighbours_than_images_are_left_out(tmp_path):
    module = KNNEval(write_checkpoint(tmp_path), k=[200, 5], baselines=False)
    assert set(judge(module, Patterns())) == {
        *("knn/top1", "knn/top5", "knn/mean_per_class", "knn/top1_k5_t0.07", "knn/top1_k5_t0.1")
    }
    assert "k 5," in module.protocol() and f"{TRAIN - 2} clean training images" in module.protocol()
    module = KNNEval(write_checkpoint(tmp_path), k=[200], bank_size=50, baselines=False)
    judge(module, Patterns(unknown=1))
    size = 50 - (60 in subset_rows(TRAIN, 50))  # the last has no label
    assert f"k {size}," in module.protocol() and f"a fixed random subset of {size} clean" in module.protocol()


def test_images_without_a_label_are_not_counted_as_neighbours(tmp_path):
    module = KNNEval(write_checkpoint(tmp_path), k=[50, 31, 30], temperature=[0.07], baselines=False)
    judge(module, Patterns(unknown=31))  # of 61
    assert [k for k, _ in module.pairs] == [30] and "bank: 30 clean" in module.protocol()


def test_a_bank_without_a_label_is_refused(tmp_path):
    data = Patterns()
    train, val = data.sources()
    train.labels = torch.full_like(train.labels, -1)
    data.sources = lambda: (train, val)
    with pytest.raises(UserError, match="no image of the bank can be read and has a label"):
        judge(KNNEval(write_checkpoint(tmp_path)), data)


@pytest.mark.ddp
def test_two_ranks_find_what_one_finds(tmp_path):
    options = {"k": [5, 1, 30], "temperature": [0.07]}
    path = write_checkpoint(tmp_path)
    alone = judge_on_rank(0, "KNNEval", path, 1, options)
    for found in on_ranks(2, judge_on_rank, "KNNEval", path, 2, options):
        assert found == pytest.approx(alone)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (Patterns(unknown=0), {"k": []}, r"k=\[\] and bank_size=None must be at least 1"),
        (Patterns(), {"temperature": [0.0]}, "above 0"),
        (Patterns(), {"bank_size": 0}, "bank_size=0 must be at least 1"),
        (Stereo(), {}, r"The images of Stereo have 2 channel\(s\), the network was trained on 3"),
        (Patterns(unknown=10_000), {}, "Patterns has no labels here"),
    ],
)
def test_what_cannot_be_judged_is_refused(data, options, message, tmp_path):
    if isinstance(data, Patterns) and data.unknown == 10_000:
        data.sources = lambda: tuple(_nameless(source) for source in Patterns(unknown=61).sources())
    with pytest.raises(UserError, match=message):
        judge(KNNEval(write_checkpoint(tmp_path), **options), data)


def _nameless(source):
    source.class_names, source.labels = None, torch.full_like(source.labels, -1)
    return source


def test_it_is_no_training(tmp_path):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, **quiet)
    with pytest.raises(UserError, match="KNNEval judges a trained network: run cli.py validate"):
        trainer.fit(KNNEval(write_checkpoint(tmp_path)), datamodule=Toy())
