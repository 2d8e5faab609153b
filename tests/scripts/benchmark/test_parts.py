"""Every part does in the benchmark what it does in training, and is held against the right limit."""

import json

import pytest
import torch

from scripts.benchmark import parts
from scripts.benchmark.parts import Rates, main, meter, results, take_turns
from scripts.benchmark.step_parts import FP32, PARTS, Part, Sizes, taken

SIZES = Sizes(batch_size=4, bank_size=40, queries=3, prototypes=7)


@pytest.fixture
def step():
    return taken("convnet", SIZES, "cpu")


def test_a_limit_is_that_of_memory_or_of_arithmetic():
    rates = Rates(moved=10, multiplications=5)
    assert rates.limit(Part(print, moved=100, multiplications=10)) == 10
    assert rates.limit(Part(print, moved=10, multiplications=100)) == 20


def test_the_teacher_moves_towards_its_students(step):
    (pair,) = step.module.ema_pairs()
    teachers, students = pair.parameters()
    with torch.no_grad():
        teachers[0].add_(1)
    part = PARTS["teacher"](step)
    part.run()
    part.run()  # not only once a step
    torch.testing.assert_close(teachers[0] - students[0], torch.full_like(teachers[0], 0.999**2))
    assert part.moved == 3 * FP32 * sum(p.numel() for p in students)


def test_the_queue_takes_a_batch_at_a_time(step):
    part = PARTS["queue"](step)
    part.run()
    part.run()
    assert step.module.queue.seen == 2 * SIZES.batch_size


def test_the_guard_looks_at_every_gradient(step, monkeypatch):
    norms, seen = torch._foreach_norm, []
    monkeypatch.setattr(torch, "_foreach_norm", lambda gradients: seen.extend(gradients) or norms(gradients))
    part = PARTS["non-finite guard"](step)
    part.run()
    assert len(seen) == sum(p.requires_grad for p in step.module.parameters())
    assert part.moved == sum(p.numel() * FP32 for p in step.module.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["LARS", "SGD", "SGD, foreach", "AdamW", "AdamW, fused"])
def test_an_optimiser_steps_all_that_learns(step, name):
    learning = [p for p in step.module.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in learning]
    part = PARTS[name](step)
    part.run()
    assert all((p != old).any() for p, old in zip(learning, before, strict=True))
    assert part.moved == sum(p.numel() for p in learning) * FP32 * (5 if "SGD" in name else 7)


def test_the_probe_learns(step):
    part = PARTS["probe"](step)
    part.run()
    D = step.module.feature_dim
    assert part.multiplications == 2 * 4 * D * 1000
    assert part.moved == FP32 * (4 * D + 6 * 1000 * (D + 1))


def test_neighbours_and_codes_are_found(step):
    assert PARTS["kNN of a batch"](step).run().shape == (SIZES.queries,)
    codes = PARTS["SwAV's assignment"](step).run()
    assert codes.shape == (SIZES.batch_size, 2, SIZES.prototypes)
    torch.testing.assert_close(codes.sum(-1), torch.ones(SIZES.batch_size, 2))


def test_ratios_are_those_of_each_round(monkeypatch):
    clock = iter([1.0, 1.0, 4.0, 1.0, 1.0, 4.0])  # two parts to warm up, and two rounds
    monkeypatch.setattr(parts, "_warm", lambda part, device: 1.0)
    monkeypatch.setattr(parts, "seconds", lambda run, steps, device: next(clock))
    rates = iter([Rates(10, 1), Rates(20, 1)])
    turns = take_turns({"a": Part(print, 10), "b": Part(print, 40)}, lambda: next(rates), rounds=2, device="cpu")
    assert turns["a"].seconds == [1, 4]
    assert turns["a"].limits == [1, 0.5]
    assert turns["b"].seconds == [1, 1]
    (a, b) = results("net", turns)
    assert (a.ratio, a.ratio_min, a.ratio_max) == (4.5, 1, 8)
    assert (b.microseconds, b.limit_microseconds) == (1e6, 3e6)


def test_the_meter_counts_what_was_done(monkeypatch):
    monkeypatch.setattr(parts, "ADDED", 1024)
    monkeypatch.setattr(parts, "SIDE", {"cpu": 8})
    monkeypatch.setattr(parts, "seconds", lambda run, steps, device: 2.0)
    assert meter("cpu")() == Rates(moved=1536, multiplications=256)


def test_writes_a_row_for_each_part(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parts, "ADDED", 1024**2)
    monkeypatch.setattr(parts, "TURN", 1e-4)
    out = tmp_path / "results" / "parts.json"
    sizes = ["--batch-size", "4", "--bank-size", "40", "--queries", "3", "--prototypes", "7"]
    main(["--backbones", "convnet", *sizes, "--rounds", "2", "--out", str(out)])
    report = json.loads(out.read_text())
    printed = capsys.readouterr().out
    assert [row["part"] for row in report["results"]] == list(PARTS)
    for row in report["results"]:
        assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
        assert f"{row['part']} " in printed
    assert report["lars_over_sgd_foreach"]["convnet"]["ratio"] > 0
    assert report["sizes"]["bank_size"] == 40
