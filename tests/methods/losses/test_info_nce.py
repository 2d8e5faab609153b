"""The contrastive losses against the authors' numbers, double loops, and what must leave them unchanged."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods.losses import info_nce, nt_xent, queue_nce
from tests.support.ranks import on_ranks


def loss_and_gradient(hidden: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """As a method uses it: normalise, split into the two views, backward."""
    hidden = hidden.clone().requires_grad_()
    loss = nt_xent(*F.normalize(hidden, dim=1).chunk(2), temperature)
    loss.backward()
    assert hidden.grad is not None
    return loss.detach(), hidden.grad


def naive(z1: torch.Tensor, z2: torch.Tensor, temperature: float) -> torch.Tensor:
    z = torch.cat([z1, z2])
    losses = []
    for i in range(len(z)):
        partner = (i + len(z1)) % len(z)
        scores = {j: torch.dot(z[i], z[j]) / temperature for j in range(len(z)) if j != i}
        losses.append(-scores[partner] + torch.stack(list(scores.values())).exp().sum().log())
    return torch.stack(losses).mean()


def test_equals_the_authors_code(golden):
    g = golden("simclr")
    loss, grad = loss_and_gradient(g["hidden"], float(g["temperature"]))
    torch.testing.assert_close(loss, g["loss_mean2n"], rtol=1e-9, atol=0)
    torch.testing.assert_close(grad, g["grad_mean2n"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        2 * grad, g["grad_official"], rtol=1e-9, atol=1e-12
    )  # that code returns the sum of two means
    for temperature in ("0.07", "0.1", "0.5", "1.0"):
        loss, _ = loss_and_gradient(g["hidden"], float(temperature))
        torch.testing.assert_close(2 * loss, g[f"loss_official_T{temperature}"], rtol=1e-9, atol=0)


def on_rank(rank: int, hidden: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    half = len(hidden) // 4  # images per rank, of two views
    h1, h2 = (view[rank * half : (rank + 1) * half] for view in torch.from_numpy(hidden).chunk(2))
    loss, grad = loss_and_gradient(torch.cat([h1, h2]), temperature)
    return loss.numpy(), grad.numpy()


@pytest.mark.ddp
def test_two_ranks_equal_the_authors_two_replicas(golden):
    g = golden("simclr")
    answers = on_ranks(2, on_rank, g["hidden"].numpy(), float(g["temperature"]))
    for rank, (loss, grad) in enumerate(answers):
        np.testing.assert_allclose(2 * loss, g[f"w2_loss_official_r{rank}"], rtol=1e-9)
        # Their step sums the gradients of loss / 2 over replicas; ours averages over ranks what each takes of its own
        # loss.
        np.testing.assert_allclose(grad, g[f"w2_grad_r{rank}"], rtol=1e-9, atol=1e-12)


def test_equals_a_double_loop():
    z1, z2 = F.normalize(torch.randn(2, 5, 3, dtype=torch.float64), dim=-1)
    torch.testing.assert_close(nt_xent(z1, z2, 0.3), naive(z1, z2, 0.3))


def test_gradient_is_that_of_the_value():
    z = F.normalize(torch.randn(2, 4, 3, dtype=torch.float64), dim=-1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: nt_xent(z[0], z[1], 0.2), z)


def test_alike_views_give_the_logarithm_of_the_crowd():
    z = F.normalize(torch.ones(6, 4), dim=1)
    assert float(nt_xent(z, z, 0.1)) == pytest.approx(math.log(2 * 6 - 1), rel=1e-6)


def test_order_of_images_and_of_views_does_not_matter():
    z1, z2 = F.normalize(torch.randn(2, 7, 5, dtype=torch.float64), dim=-1)
    order = torch.randperm(7)
    torch.testing.assert_close(nt_xent(z1[order], z2[order], 0.2), nt_xent(z1, z2, 0.2))
    torch.testing.assert_close(nt_xent(z2, z1, 0.2), nt_xent(z1, z2, 0.2))


def test_low_temperature_in_bf16_stays_finite_and_close():
    z1, z2 = F.normalize(torch.randn(2, 64, 16), dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(z1.bfloat16(), z2.bfloat16(), 0.01)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, nt_xent(z1.bfloat16().float(), z2.bfloat16().float(), 0.01), rtol=1e-6, atol=0)


def naive_info_nce(query, key, temperature, negatives):
    losses = []
    for row, q in enumerate(query):
        candidates = [*key, *negatives]
        scores = torch.stack([torch.dot(q, c) / temperature for c in candidates])
        losses.append(scores.exp().sum().log() - scores[row % len(key)])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("num_negatives", [0, 4])
def test_info_nce_equals_a_double_loop(queries, num_negatives):
    key = F.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1)
    query = F.normalize(torch.randn(5 * queries, 3, dtype=torch.float64), dim=1)
    negatives = F.normalize(torch.randn(num_negatives, 3, dtype=torch.float64), dim=1)
    loss = info_nce(query, key, 0.3, negatives if num_negatives else None)
    torch.testing.assert_close(loss, naive_info_nce(query, key, 0.3, negatives), rtol=1e-12, atol=0)


def test_queue_nce_equals_a_double_loop():
    q, k = F.normalize(torch.randn(2, 5, 3, dtype=torch.float64), dim=-1)
    queue = F.normalize(torch.randn(7, 3, dtype=torch.float64), dim=1)
    losses = []
    for i in range(5):
        scores = torch.stack([torch.dot(q[i], c) / 0.2 for c in (k[i], *queue)])
        losses.append(scores.exp().sum().log() - scores[0])
    torch.testing.assert_close(queue_nce(q, k, queue, 0.2), torch.stack(losses).mean(), rtol=1e-12, atol=0)


def test_other_keys_of_the_batch_are_no_negatives_of_the_queues_loss():
    q, k = F.normalize(torch.randn(2, 5, 3, dtype=torch.float64), dim=-1)
    queue = F.normalize(torch.randn(7, 3, dtype=torch.float64), dim=1)
    alone = torch.stack([queue_nce(q[i : i + 1], k[i : i + 1], queue, 0.2) for i in range(5)]).mean()
    torch.testing.assert_close(queue_nce(q, k, queue, 0.2), alone, rtol=1e-12, atol=0)
    assert float(queue_nce(q[:1], q[:1], q[:1].expand(7, -1), 0.2)) == pytest.approx(math.log(1 + 7), rel=1e-9)


def info_nce_on_rank(rank: int, query: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    half = len(key) // 2
    rows = slice(rank * half, (rank + 1) * half)
    q, k = (torch.from_numpy(x)[rows].clone().requires_grad_() for x in (query, key))
    loss = info_nce(q, k, 0.2)
    loss.backward()
    assert q.grad is not None
    assert k.grad is not None
    return loss.detach().numpy(), q.grad.numpy(), k.grad.numpy()


@pytest.mark.ddp
def test_info_nce_on_two_ranks_is_the_mean_of_the_global_batch():
    query, key = F.normalize(torch.randn(2, 6, 4, dtype=torch.float64), dim=-1)
    whole_q, whole_k = query.clone().requires_grad_(), key.clone().requires_grad_()
    loss = info_nce(whole_q, whole_k, 0.2)
    loss.backward()
    answers = on_ranks(2, info_nce_on_rank, query.numpy(), key.numpy())
    np.testing.assert_allclose(np.mean([a[0] for a in answers]), loss.detach(), rtol=1e-12)
    for place, whole in ((1, whole_q.grad), (2, whole_k.grad)):  # per rank twice its share of the mean over ranks
        np.testing.assert_allclose(np.concatenate([a[place] for a in answers]) / 2, whole, rtol=1e-9, atol=1e-12)
