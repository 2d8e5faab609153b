"""Alignment and uniformity against the authors' numbers, double loops, and the monitor's metrics."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks import representation
from datamodules.errors import UserError
from methods.losses.align_uniform import alignment, uniformity
from tests.support.ranks import on_ranks

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


@pytest.mark.parametrize("alpha", [1, 2, 3])
def test_alignment_equals_the_authors_code(golden, alpha):
    g = golden("align_uniform")
    x, y = (g[name].clone().requires_grad_() for name in "xy")
    loss = alignment(x, y, alpha)
    loss.backward()
    torch.testing.assert_close(loss.detach(), g[f"align_a{alpha}_loss"], **CLOSE)
    torch.testing.assert_close(x.grad, g[f"align_a{alpha}_grad_x"], **CLOSE)
    torch.testing.assert_close(y.grad, g[f"align_a{alpha}_grad_y"], **CLOSE)


@pytest.mark.parametrize("t", [2, 3])
def test_uniformity_equals_the_authors_code(golden, t):
    g = golden("align_uniform")
    x = g["x"].clone().requires_grad_()
    loss = uniformity(x, t)
    loss.backward()
    torch.testing.assert_close(loss.detach(), g[f"unif_t{t}_loss"], **CLOSE)
    torch.testing.assert_close(x.grad, g[f"unif_t{t}_grad_x"], **CLOSE)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


@pytest.mark.parametrize(("in_batch", "queued"), [(True, 0), (True, 4), (False, 4)])
def test_uniformity_equals_a_double_loop(in_batch, queued):
    x, queue = unit(5, 3), unit(queued, 3, seed=1)
    pairs = [(x[i], x[j]) for i in range(5) for j in range(i)] if in_batch else []
    pairs += [(row, key) for row in x for key in queue]
    mean = sum(math.exp(-2.5 * float((a - b).square().sum())) for a, b in pairs) / len(pairs)
    value = uniformity(x, 2.5, queue if queued else None, in_batch)
    assert float(value) == pytest.approx(math.log(mean), rel=1e-10)


def test_gradients_are_those_of_the_values():
    x, y = unit(4, 3).requires_grad_(), unit(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: alignment(x, y, 1.5), (x, y))
    assert torch.autograd.gradcheck(lambda x: uniformity(x, 2.0, y.detach()), x)


def test_the_monitors_metrics_are_the_same_measures():
    x, y = unit(2, 32, 8).float() * 3
    torch.testing.assert_close(representation.alignment(x, y), alignment(x / 3, y / 3))
    torch.testing.assert_close(representation.uniformity(x), uniformity(x / 3))


def test_a_simplex_a_rotation_and_collapse():
    n, t = 5, 2.0
    corners = F.normalize(torch.eye(n, dtype=torch.float64) - 1 / n, dim=1)
    assert float(uniformity(corners, t)) == pytest.approx(-t * 2 * n / (n - 1))  # the lowest value for n images
    x = unit(9, n)
    rotation, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
    torch.testing.assert_close(uniformity(x @ rotation, t), uniformity(x, t))
    alike = unit(1, n).expand(6, n).clone().requires_grad_()
    value = uniformity(alike, t) + alignment(alike, alike.detach(), 1.0)
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-12)
    assert alike.grad is not None
    assert alike.grad.isfinite().all()


def test_one_image_has_nothing_to_keep_away_from():
    with pytest.raises(UserError, match="batch_size"):
        uniformity(unit(1, 3))
    assert float(uniformity(unit(1, 3), 2.0, unit(4, 3, seed=1), in_batch=False)) < 0


def share(rank: int, ranks: int) -> list[tuple[np.ndarray, np.ndarray]]:
    B = 8 // ranks
    answers = []
    for queue, in_batch in ((None, True), (unit(3, 4, seed=2), True), (unit(3, 4, seed=2), False)):
        x = unit(8, 4)[rank * B : (rank + 1) * B].clone().requires_grad_()
        loss = uniformity(x, 2.0, queue, in_batch)
        loss.backward()
        assert x.grad is not None
        answers.append((loss.detach().numpy(), x.grad.numpy()))
    return answers


@pytest.mark.ddp
def test_two_ranks_equal_one_process():
    answers = on_ranks(2, share, 2)
    for case, (loss, grad) in enumerate(share(0, 1)):
        for answer in answers:
            np.testing.assert_allclose(answer[case][0], loss, rtol=1e-12)
        np.testing.assert_allclose(np.concatenate([a[case][1] for a in answers]) / 2, grad, rtol=1e-9, atol=1e-12)
