"""The grid of linear classifiers against torch's own layer and optimiser, and the choice among them."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datamodules.errors import UserError
from datamodules.randomness import permutation
from datamodules.sources import hold_out
from methods import LinearEval
from methods.evaluation.features import extract
from methods.evaluation.heads import EPSILON, train_heads
from methods.pretrained import load_backbone
from tests.support.frozen import CLASSES, TRAIN, Patterns, judge, judge_on_rank, write_checkpoint
from tests.support.ranks import on_ranks

N, D, C = 50, 6, 4
CPU = torch.device("cpu")


def problem(versions: int = 1):
    h = torch.randn(versions, N, D) * torch.linspace(0.1, 30, D) + torch.linspace(-5, 5, D)
    return h, torch.randint(C, (N,))


def naive(h, label, lr, weight_decay, epochs, batch_size, seed):
    """One head in float64: torch's layer, autograd and SGD on standardised features."""
    h = h.double()
    mean, var = h.mean((0, 1)), h.var((0, 1), correction=0)
    layer = nn.Linear(D, C, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    groups = [{"params": [layer.weight], "weight_decay": weight_decay}, {"params": [layer.bias]}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    steps, step = epochs * math.ceil(N / batch_size), 0
    for epoch in range(epochs):
        x = (h[epoch % len(h)] - mean) / (var + EPSILON).sqrt()
        for rows in torch.from_numpy(permutation(seed, epoch, N)).split(batch_size):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            F.cross_entropy(layer(x[rows]), label[rows]).backward()
            optimizer.step()
            step += 1
    return lambda raw: layer((raw.double() - mean) / (var + EPSILON).sqrt())


@pytest.mark.parametrize("versions", [1, 3])
def test_each_classifier_is_the_one_that_torch_trains_alone(versions):
    h, label = problem(versions)
    lr, weight_decay = [0.01, 0.1, 0.1, 1.0], [0.0, 0.0, 0.1, 0.01]
    heads = train_heads(h, label, C, lr, weight_decay, epochs=4, batch_size=16, seed=3)
    fresh = torch.randn(9, D) * 10
    for g in range(4):
        want = naive(h, label, lr[g], weight_decay[g], 4, 16, 3)(fresh)
        assert torch.allclose(heads(fresh)[g].double(), want, rtol=1e-3, atol=1e-4)
        alone = train_heads(h, label, C, lr[g : g + 1], weight_decay[g : g + 1], 4, 16, 3)
        assert torch.allclose(heads(fresh)[g], alone(fresh)[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(heads.weight[:, 1], heads.weight[:, 2], rtol=0.05), "weight decay has no effect"


def test_scale_and_place_of_the_features_do_not_matter():
    h, label = problem()
    heads = train_heads(h, label, C, [0.1], [0.01], 5, 16, 0)
    other = train_heads(h * 1000 - 7, label, C, [0.1], [0.01], 5, 16, 0)
    assert torch.allclose(heads(h[0]), other(h[0] * 1000 - 7), atol=2e-3)


def test_logits_are_float32_in_a_mixed_precision_run():
    h, label = problem()
    heads = train_heads(h, label, C, [0.1], [0.0], 2, 16, 0)
    want = heads(h[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = heads(h[0])
    assert found.dtype == torch.float32 and torch.equal(found, want)


GRID = {"lr": [0.003, 0.1, 1e6], "weight_decay": [0.0, 0.05], "epochs": 20, "batch_size": 16, "held_out": 0.3}


def test_the_choice_is_the_best_of_the_held_out_part_and_is_refitted_on_all(tmp_path):
    path = write_checkpoint(tmp_path)
    module = LinearEval(path, **GRID, seeds=[4])
    logged = judge(module, Patterns())
    network = load_backbone(path).backbone
    train, val = (extract(network, Patterns(), split, CPU) for split in ("train", "val"))
    h, label = train.h[train.label >= 0], train.label[train.label >= 0]
    fit, held = hold_out(label, 0.3, seed=4)
    assert set(held) | set(fit) == set(range(len(label))) and not set(held) & set(fit)
    best = []
    for lr in GRID["lr"][:2]:
        for decay in GRID["weight_decay"]:
            logits = train_heads(h[None, fit], label[fit], CLASSES, [lr], [decay], 20, 16, 4)(h[held])[0]
            accuracy = float((logits.argmax(1) == label[held]).double().mean())
            best.append((accuracy, -float(F.cross_entropy(logits, label[held])), lr, decay))
    accuracy, _, lr, decay = max(best)
    assert module.choices == [(lr, decay, pytest.approx(accuracy))]
    logits = train_heads(h[None], label, CLASSES, [lr], [decay], 20, 16, 4)(val.h)[0][val.label >= 0]
    label = val.label[val.label >= 0]
    assert logged["linear/top1"] == pytest.approx(float((logits.argmax(1) == label).double().mean()))
    top5 = (logits.topk(5).indices == label[:, None]).any(1).double().mean()
    assert logged["linear/top5"] == pytest.approx(float(top5))


def test_nothing_is_chosen_by_the_validation_labels(tmp_path):
    modules = [LinearEval(write_checkpoint(tmp_path), **GRID) for _ in range(2)]
    honest, wrong = (judge(m, Patterns(relabelled=r)) for m, r in zip(modules, (False, True), strict=True))
    assert modules[0].choices == modules[1].choices and honest["linear/top1"] != wrong["linear/top1"]


def test_several_seeds_give_mean_and_deviation(tmp_path):
    path, hasty = (
        write_checkpoint(tmp_path),
        {"lr": [0.1], "weight_decay": [0.0], "epochs": 1, "held_out": 0.3, "batch_size": 8},
    )
    alone = [judge(LinearEval(path, **hasty, seeds=[s]), Patterns())["linear/top1"] for s in (0, 1, 2)]
    logged = judge(LinearEval(path, **hasty, seeds=[0, 1, 2]), Patterns())
    assert logged["linear/top1"] == pytest.approx(np.mean(alone))
    assert logged["linear/top1_std"] == pytest.approx(np.std(alone, ddof=1)) and np.std(alone) > 0


def test_augmented_copies_differ_from_each_other_and_not_from_run_to_run(tmp_path):
    module = LinearEval(write_checkpoint(tmp_path), **GRID, augmented_copies=2)
    first = judge(module, Patterns())
    h, label = module._training_features()
    assert h.shape == (2, TRAIN - 2, 32) and not torch.equal(h[0], h[1]) and (label >= 0).all()
    assert judge(module, Patterns()) == first and "2 random crops and flips" in module.protocol()
    assert torch.equal(module._training_features()[0], h)


def test_the_end_of_a_grid_is_told(tmp_path):
    module = LinearEval(write_checkpoint(tmp_path), lr=[1e-4, 1e-3], weight_decay=[0.0], epochs=2, held_out=0.3)
    judge(module, Patterns())
    assert len(module.hints) == 1 and module.hints[0].endswith(
        "at the end of its grid: widen it by cli.py validate --config configs/eval/linear.yaml --model.lr."
    )
    assert "lr/weight decay" in module.protocol() and "30% of training" in module.protocol()


@pytest.mark.ddp
def test_two_ranks_train_what_one_trains(tmp_path):
    path, options = write_checkpoint(tmp_path), GRID | {"augmented_copies": 1, "seeds": [0, 1]}
    alone = judge_on_rank(0, "LinearEval", path, 1, options)
    for found in on_ranks(2, judge_on_rank, "LinearEval", path, 2, options):
        assert found == pytest.approx(alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": []}, r"lr=\[\] must be above 0"),
        ({"weight_decay": [-1.0]}, "at least 0"),
        ({"seeds": []}, r"one of seeds=\[\] at least"),
        ({"held_out": 1.0}, "held_out=1.0 between 0 and 1"),
        ({"epochs": 0}, "epochs=0 and batch_size=256 must be at least 1"),
        ({"held_out": 0.01}, "No class has enough of the 59 training images for 1% to be held out: raise it by cli.py"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        judge(LinearEval(write_checkpoint(tmp_path), **options), Patterns())
