"""DINO's loss against a double loop over crops and images."""

import math

import pytest
import torch
from torch import Tensor

from methods.losses.dino import cross_entropies, dino_loss, entropy, teacher_targets, warmed_up

B, V, Q, K = 3, 5, 2, 7


def logits(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, V, K), (B, Q, K), (K,))
    student, teacher, center = (scale * torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return student, teacher, center


def test_equals_a_double_loop():
    student, teacher, center = logits()
    targets = teacher_targets(teacher, center, 0.5)
    total, pairs = 0.0, 0
    for q in range(Q):
        for v in range(V):
            if q == v:
                continue
            for image in range(B):
                weights = ((teacher[image, q] - center) / 0.5).exp()
                log_p = student[image, v] / 0.2 - (student[image, v] / 0.2).exp().sum().log()
                total -= float((weights / weights.sum() * log_p).sum())
                pairs += 1
    assert float(dino_loss(student, targets, 0.2)) == pytest.approx(total / pairs, rel=1e-12)


def test_the_gradient_is_the_difference_of_the_distributions():
    student, teacher, center = logits()
    targets = teacher_targets(teacher, center, 0.5)
    student.requires_grad_()
    dino_loss(student, targets, 0.2).backward()
    p = (student.detach() / 0.2).softmax(-1)
    num_pairs = Q * (V - 1)
    for v in range(V):
        others = [q for q in range(Q) if q != v]
        expected = sum(p[:, v] - targets[:, q] for q in others) / (0.2 * B * num_pairs)
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(student.grad[:, v], expected, rtol=1e-10, atol=1e-14)  # pyright: ignore


def test_equal_logits_at_equal_temperature_cost_their_entropy():
    student, _, _ = logits()
    same = student[:, :1].expand(B, V, K)
    targets = teacher_targets(same[:, :Q], torch.zeros(K), 0.3)
    torch.testing.assert_close(dino_loss(same, targets, 0.3), entropy(targets))


def test_which_local_crop_is_which_does_not_matter():
    student, teacher, center = logits()
    targets = teacher_targets(teacher, center, 0.5)
    swapped = student[:, [0, 1, 4, 2, 3]]
    torch.testing.assert_close(dino_loss(swapped, targets, 0.2), dino_loss(student, targets, 0.2))
    globals_swapped = dino_loss(student[:, [1, 0, 2, 3, 4]], targets, 0.2)
    assert not torch.isclose(globals_swapped, dino_loss(student, targets, 0.2))


def test_a_shift_of_all_logits_changes_nothing_and_the_center_takes_a_common_one_off():
    student, teacher, center = logits()
    targets = teacher_targets(teacher, center, 0.04)
    torch.testing.assert_close(teacher_targets(teacher + 5, center, 0.04), targets)
    torch.testing.assert_close(teacher_targets(teacher + center, 2 * center, 0.04), targets)
    torch.testing.assert_close(cross_entropies(student + 5, targets, 0.1), cross_entropies(student, targets, 0.1))


def test_large_logits_of_half_precision_stay_finite():
    student, teacher, center = logits(scale=40.0)
    targets = teacher_targets(teacher.bfloat16(), center.float(), 0.04)
    loss = dino_loss(student.bfloat16(), targets, 0.1)
    assert targets.dtype == loss.dtype == torch.float32
    assert loss.isfinite()
    rounded = teacher_targets(teacher.bfloat16().double(), center, 0.04)
    exact = dino_loss(student.bfloat16().double(), rounded, 0.1)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)


def test_entropy_of_the_extremes():
    assert float(entropy(torch.full((4, K), 1 / K))) == pytest.approx(math.log(K))
    assert float(entropy(torch.eye(K))) == 0


def test_temperature_of_the_last_warm_up_epoch_is_the_final_one():
    assert [warmed_up(epoch, 0.04, 0.07, 4) for epoch in range(6)] == pytest.approx(
        [0.04, 0.05, 0.06, 0.07, 0.07, 0.07]
    )
    assert [warmed_up(epoch, 0.04, 0.07, 0) for epoch in range(2)] == [0.07, 0.07]
    assert [warmed_up(epoch, 0.04, 0.07, 1) for epoch in range(2)] == [0.04, 0.07]
