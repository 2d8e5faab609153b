"""DINO's cross-entropy between what a teacher and a student make of different crops of an image.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.14294, eq. (2) to (4)
and algorithm 1.
"""

import torch
from torch import Tensor

from methods.losses.precision import full_precision


@full_precision
def teacher_targets(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """The teacher's distributions: centred, so that no prototype wins for all images, and sharpened.

    Args:
        logits: [..., K], no gradient.
        center: [K], the running mean of such logits.
        temperature: softmax temperature, > 0; below the student's it sharpens (paper: 0.04 to 0.07).

    Returns:
        Probabilities of the shape of `logits`.
    """
    return ((logits - center) / temperature).softmax(-1)


@full_precision
def cross_entropies(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Of each image, the cross-entropy between each target and each prediction.

    Args:
        student: [B, V, K] logits, with gradient.
        targets: [B, Q, K] probabilities, no gradient.
        temperature: softmax temperature of the student, > 0 (paper: 0.1).

    Returns:
        [B, Q, V], in nats.
    """
    # Targets sum to one, so that -<target, log-softmax> is the log-normaliser less <target, logits>. The log-softmax,
    # as large as the logits of all crops, is then never held.
    logits = student / temperature
    return logits.logsumexp(-1)[:, None] - targets @ logits.mT


@full_precision
def dino_loss(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The mean over the pairs of a teacher's crop and another crop of the student's.

    Args:
        student: [B, V, K] logits, with gradient; crop v < Q is the one that target v comes from.
        targets: [B, Q, K] probabilities, no gradient.
        temperature: softmax temperature of the student, > 0.

    Returns:
        Scalar mean over pairs and local images, in nats.
    """
    (B, V, _), Q = student.shape, targets.shape[1]
    same = torch.eye(Q, V, dtype=torch.bool, device=student.device)
    pairs = cross_entropies(student, targets, temperature).masked_fill(same, 0)
    return pairs.sum() / (B * Q * (V - 1))


@full_precision
def entropy(probabilities: Tensor) -> Tensor:
    """The mean entropy of distributions [..., K], in nats: 0 for one-hot ones, ln K for uniform ones."""
    return torch.special.entr(probabilities).sum(-1).mean()


def warmed_up(epoch: int, start: float, final: float, warmup_epochs: int) -> float:
    """The teacher's temperature in an epoch: from `start` in epoch 0 to `final` in the last one of the warm-up.

    Args:
        epoch: counted from 0.
        start: temperature at first; what a warm-up of a single epoch has.
        final: temperature after the warm-up.
        warmup_epochs: its length.
    """
    if epoch >= warmup_epochs:
        return final
    return start + (final - start) * epoch / max(1, warmup_epochs - 1)
