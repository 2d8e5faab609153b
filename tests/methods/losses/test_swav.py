"""Sinkhorn's codes, their prediction and their perplexities, against plain loops and the authors' numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.losses.swav import perplexities, sinkhorn, swapped_prediction
from tests.support.golden import load
from tests.support.ranks import on_ranks

N, K, EPSILON = 7, 5, 0.05
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}


def random_scores(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def plain_sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The paper's listing for [N, K], number by number: shares of 1/K and 1/N, and times N in the end."""
    rows, columns = scores.shape
    q = [[math.exp(float(s) / epsilon) for s in row] for row in scores]
    total = sum(map(sum, q))
    q = [[x / total for x in row] for row in q]
    for _ in range(iterations):
        for k in range(columns):
            share = sum(row[k] for row in q)
            for row in q:
                row[k] /= share * columns
        q = [[x / (sum(row) * rows) for x in row] for row in q]
    return torch.tensor(q, dtype=torch.float64) * rows


@pytest.mark.parametrize(("name", "iterations"), [("sk_Q_it1", 1), ("sk_Q", 3), ("sk_Q_it10", 10)])
def test_codes_of_the_authors(golden, name, iterations):
    g = golden("swav")
    assert g["sk_iters"] == 3
    codes = sinkhorn(g["sk_scores"], float(g["sk_eps"]), iterations)
    torch.testing.assert_close(codes, g[name], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("iterations", [1, 2, 6])
def test_codes_follow_the_listing(iterations):
    scores = random_scores(N, K)
    torch.testing.assert_close(
        sinkhorn(scores, EPSILON, iterations), plain_sinkhorn(scores, EPSILON, iterations), **CLOSE
    )


def on_a_rank(rank: int, rows: list[slice]) -> list[np.ndarray]:
    scores = load("swav")["sk_scores"][rows[rank]]
    return [sinkhorn(scores, EPSILON, 3).numpy(), perplexities(scores.softmax(1)).numpy()]


@pytest.mark.ddp
@pytest.mark.parametrize("first", [4, 3])
def test_ranks_share_the_images_evenly_or_not(golden, first):
    g = golden("swav")
    answers = on_ranks(2, on_a_rank, [slice(0, first), slice(first, 8)])
    np.testing.assert_allclose(np.concatenate([codes for codes, _ in answers]), g["w2_sk_Q"], **CLOSE)
    np.testing.assert_allclose(g["w2_sk_Q"], g["sk_Q"], **CLOSE)
    if first == 4:
        expected = perplexities(g["sk_scores"].softmax(1))
        for _, values in answers:
            np.testing.assert_allclose(values, expected, **CLOSE)


def test_rows_sum_to_one_and_usage_evens_out():
    scores = random_scores(64, 8)
    unevenness = []
    for iterations in (1, 3, 10, 30):
        codes = sinkhorn(scores, EPSILON, iterations)
        torch.testing.assert_close(codes.sum(1), torch.ones(64).double(), **CLOSE)
        unevenness.append(float((codes.mean(0) * 8 - 1).abs().max()))
    assert unevenness == sorted(unevenness, reverse=True)
    assert unevenness[1] > 0.01 > unevenness[3]  # three rounds are an approximation


def test_permuted_images_and_prototypes_give_permuted_codes():
    scores = random_scores(N, K)
    codes, images, prototypes = sinkhorn(scores, EPSILON, 3), torch.randperm(N), torch.randperm(K)
    torch.testing.assert_close(sinkhorn(scores[images], EPSILON, 3), codes[images], **CLOSE)
    torch.testing.assert_close(sinkhorn(scores[:, prototypes], EPSILON, 3), codes[:, prototypes], **CLOSE)


def test_a_prototype_that_everyone_likes_more_is_used_no_more():
    scores = random_scores(N, K)
    torch.testing.assert_close(
        sinkhorn(scores + random_scores(K, seed=1), EPSILON, 3), sinkhorn(scores, EPSILON, 3), **CLOSE
    )


def test_dimensions_in_between_are_problems_of_their_own():
    scores = random_scores(N, 2, K)
    codes = sinkhorn(scores, EPSILON, 3)
    for i in range(2):
        torch.testing.assert_close(codes[:, i], sinkhorn(scores[:, i], EPSILON, 3), **CLOSE)


@pytest.mark.parametrize("epsilon", [0.025, 0.05])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_codes_stay_finite_in_fp32(scale, epsilon):
    """The cosines' whole range, and a score that all images share however large it is."""
    scores = torch.tensor([[1.0, -1.0, -1.0], [1.0, 1.0, -1.0], [1.0, -1.0, 1.0]]) + scale
    codes = sinkhorn(scores, epsilon, 3)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(3))


def test_no_gradient_and_no_half_precision_in_the_codes():
    scores = random_scores(N, K).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        codes = sinkhorn(scores, EPSILON, 3)
    assert codes.dtype == torch.float32 and not codes.requires_grad
    torch.testing.assert_close(codes, sinkhorn(scores.float(), EPSILON, 3), rtol=0, atol=0)


@pytest.mark.parametrize("V", [2, 5])
def test_prediction_against_a_double_loop(V):
    scores, codes = random_scores(N, V, K), random_scores(N, 2, K, seed=1).softmax(-1)
    terms = [
        -sum(float(codes[b, g, k] * (scores[b, v] / 0.1).log_softmax(0)[k]) for k in range(K))
        for b in range(N)
        for g in range(2)
        for v in range(V)
        if v != g
    ]
    loss = swapped_prediction(scores, codes, 0.1)
    torch.testing.assert_close(loss, torch.tensor(terms, dtype=torch.float64).mean(), **CLOSE)
    assert torch.autograd.gradcheck(lambda s: swapped_prediction(s, codes, 0.5), scores.requires_grad_())


def test_equal_scores_are_worth_log_k():
    loss = swapped_prediction(torch.full((N, 4, K), 0.3), torch.eye(K)[torch.randint(K, (N, 2))], 0.1)
    assert float(loss) == pytest.approx(math.log(K))


def test_perplexities():
    one_each = torch.eye(4)[:, None]  # four images, each all in one prototype
    alike = torch.full((6, 2, 4), 0.25)
    pairs = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    for codes, expected in ((one_each, [4, 1]), (alike, [4, 4]), (pairs, [4, 2]), (one_each[:1], [1, 1])):
        torch.testing.assert_close(perplexities(codes), torch.tensor(expected, dtype=torch.float32))
