"""ReLIC's two terms against a reimplementation's numbers, a double loop, and what must leave them unchanged."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.losses import info_nce
from methods.losses.relic import contrast_and_invariance, relic, relic_v2, sample_negatives
from tests.support.ranks import on_ranks

T = 0.3


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


def softmax(scores: dict[int, float]) -> dict[int, float]:
    total = sum(math.exp(score) for score in scores.values())
    return {image: math.exp(score) / total for image, score in scores.items()}


def divergence(p: dict[int, float], q: dict[int, float]) -> float:
    return sum(p[image] * (math.log(p[image]) - math.log(q[image])) for image in p)


def scores(anchor: Tensor, others: Tensor, candidates: list[int]) -> dict[int, float]:
    return {image: float(anchor @ others[image]) / T for image in candidates}


def test_equals_the_reimplementation(golden):
    """Its scale is one over the temperature, its reference the same scores by columns; a bias changes nothing."""
    g = golden("relic")
    learned = [g[f"reference/{name}"].clone().requires_grad_() for name in ("x", "x_target", "log_scale", "bias")]
    x, x_target, log_scale, bias = learned
    scale = log_scale.exp().clamp(max=float(g["reference/max_scale"]))
    logits = F.normalize(x, dim=1) @ F.normalize(x_target, dim=1).T * scale + bias
    terms = contrast_and_invariance(logits, logits.T, torch.arange(len(x)), stop_gradient=False)
    loss = terms[0] + g["reference/alpha"] * terms[1]
    torch.testing.assert_close(loss, g["reference/loss"], rtol=1e-9, atol=0)
    torch.testing.assert_close(terms[1], g["reference/invariance"], rtol=1e-9, atol=0)
    names = ("grad_x", "grad_x_target", "grad_log_scale", "grad_bias")
    for name, grad in zip(names, torch.autograd.grad(loss, learned), strict=True):
        torch.testing.assert_close(grad, g[f"reference/{name}"], rtol=1e-9, atol=1e-12)
    pair = relic_v2(*(F.normalize(v, dim=1)[:, None] for v in (x, x_target)), 1 / scale, stop_gradient=False)
    torch.testing.assert_close(pair.flatten(), terms, rtol=1e-12, atol=0)


def test_two_views_equal_a_double_loop():
    o1, o2, t1, t2 = unit(4, 5, 3)
    everybody = list(range(5))
    expected = torch.zeros(2, 2, dtype=torch.float64)
    for image in everybody:
        p12, p21 = softmax(scores(o1[image], t2, everybody)), softmax(scores(o2[image], t1, everybody))
        expected[0] -= torch.tensor([math.log(p12[image]), math.log(p21[image])]) / 5
        expected[1] += torch.tensor([divergence(p21, p12), divergence(p12, p21)]) / 5
    torch.testing.assert_close(relic(o1, o2, t1, t2, T), expected)


@pytest.mark.parametrize("count", [None, 2])
def test_pairs_of_views_equal_a_double_loop(count):
    B, V, L = 5, 3, 2
    online, target = unit(B, V, 4), unit(B, L, 4, seed=1)
    negatives = None if count is None else sample_negatives(torch.rand(V, L, B, count), B)
    actual = relic_v2(online, target, T, negatives)
    for i in range(V):
        for j in range(L):
            contrast = invariance = 0.0
            for a in range(B):
                others = [b for b in range(B) if b != a] if negatives is None else negatives[i, j, a].tolist()
                p = softmax(scores(online[a, i], target[:, j], [a, *others]))
                q = softmax(scores(target[a, j], online[:, i], [a, *others]))
                contrast, invariance = contrast - math.log(p[a]) / B, invariance + divergence(q, p) / B
            assert actual[:, i, j].tolist() == pytest.approx([contrast, invariance], rel=1e-9)


def test_the_contrast_is_info_nce():
    o1, o2, t1, t2 = unit(4, 6, 8)
    expected = torch.stack([info_nce(o1, t2, T), info_nce(o2, t1, T)])
    torch.testing.assert_close(relic(o1, o2, t1, t2, T)[0], expected)


def test_alike_views_have_nothing_to_mend_and_others_do():
    o, t = unit(2, 6, 8)
    torch.testing.assert_close(relic(o, o, t, t, T)[1], torch.zeros(2, dtype=torch.float64))
    for seed in range(5):
        o1, o2, t1, t2 = unit(4, 6, 8, seed=seed)
        assert (relic(o1, o2, t1, t2, T)[1] > 0).all()


def test_a_constant_for_an_image_changes_nothing():
    logits, reference = torch.randn(2, 6, 6, dtype=torch.float64)
    shift = torch.randn(2, 6, 1, dtype=torch.float64) * 5
    positive = torch.arange(6)
    expected = contrast_and_invariance(logits, reference, positive, stop_gradient=False)
    actual = contrast_and_invariance(logits + shift[0], reference + shift[1], positive, stop_gradient=False)
    torch.testing.assert_close(actual, expected)


def test_gradients_are_those_of_the_values():
    o1, o2 = unit(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: relic(a, b, a, b, T), (o1, o2))
    online, target = unit(4, 3, 3).requires_grad_(), unit(4, 2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda o, t: relic_v2(o, t, T, stop_gradient=False), (online, target))


@pytest.mark.parametrize("function", ["relic", "relic_v2"])
def test_stop_gradient_leaves_the_values_and_only_them(function):
    def terms(stop_gradient: bool) -> tuple[Tensor, Tensor]:
        o = unit(2, 5, 4).requires_grad_()
        t = unit(2, 5, 4, seed=1)
        if function == "relic":
            out = relic(o[0], o[1], t[0], t[1], T, stop_gradient)
        else:
            out = relic_v2(o.transpose(0, 1), t.transpose(0, 1), T, stop_gradient=stop_gradient)
        return out.detach(), torch.autograd.grad(out.sum(), o)[0]

    (stopped, stopped_grad), (free, free_grad) = terms(True), terms(False)
    torch.testing.assert_close(stopped, free)
    assert not torch.allclose(stopped_grad, free_grad, rtol=0.01)


@pytest.mark.parametrize(("count", "population"), [(1, 2), (3, 7), (6, 7)])
def test_negatives_are_other_images_each_once_and_equally_often(count, population):
    B = population
    drawn = sample_negatives(torch.rand(4000, B, count), population)
    assert (drawn != torch.arange(B)[:, None]).all()
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < population
    assert all(len(set(row)) == count for row in drawn[:50].flatten(0, 1).tolist())
    frequency = F.one_hot(drawn, population).sum(2).double().mean(0)  # [B, population]
    expected = torch.full((B, population), count / (population - 1), dtype=torch.float64).fill_diagonal_(0)
    torch.testing.assert_close(frequency, expected, rtol=0, atol=0.05)


def test_the_largest_uniform_number_stays_within_the_batch():
    nearly_one = torch.full((20_000, 1), 1 - 2**-24)
    assert int(sample_negatives(nearly_one, 20_000).max()) == 19_999
    assert (sample_negatives(torch.full((9, 8), 1 - 2**-24), 9).sort(dim=1).values[0] == torch.arange(1, 9)).all()


def share(rank: int, ranks: int, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The terms of this rank's images, and the gradient of their sum with respect to online and target vectors."""
    B = 8 // ranks
    rows = slice(rank * B, (rank + 1) * B)
    online, target = (unit(8, 2, 5, seed=seed)[rows].clone().requires_grad_() for seed in (0, 1))
    if case == "relic":
        terms = relic(online[:, 0], online[:, 1], target[:, 0], target[:, 1], T)
    elif case == "no target network":
        terms = relic(online[:, 0], online[:, 1], online[:, 0], online[:, 1], T) + 0 * target.sum()
    else:
        count = 7 if case == "all negatives" else 3
        uniforms = torch.rand(2, 2, 8, count, generator=torch.Generator().manual_seed(0))[:, :, rows]
        negatives = None if case == "all negatives" else sample_negatives(uniforms, 8)
        terms = relic_v2(online, target, T, negatives, stop_gradient=False)
    grads = torch.autograd.grad(terms.sum(), (online, target))
    return terms.detach().numpy(), *(grad.numpy() for grad in grads)


@pytest.mark.ddp
def test_two_ranks_equal_one_process():
    cases = ["relic", "no target network", "all negatives", "some negatives"]
    answers = on_ranks(2, shares, cases)
    for case in cases:
        terms, *grads = share(0, 1, case)
        np.testing.assert_allclose(np.mean([a[case][0] for a in answers], axis=0), terms, rtol=1e-12)
        for place, grad in enumerate(grads, start=1):  # DDP's mean over two ranks
            both = np.concatenate([a[case][place] for a in answers]) / 2
            np.testing.assert_allclose(both, grad, rtol=1e-9, atol=1e-12, err_msg=case)


def shares(rank: int, cases: list[str]) -> dict[str, tuple[np.ndarray, ...]]:
    return {case: share(rank, 2, case) for case in cases}
