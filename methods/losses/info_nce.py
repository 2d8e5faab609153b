"""Losses that pick the positive out of a crowd by a softmax over similarities."""

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.distributed import gather, rank
from methods.losses.precision import full_precision


@full_precision
def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Normalised-temperature cross-entropy: every view must find its partner among all other views of the global batch.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv:2002.05709,
    eq. (1) and algorithm 1: the mean over the 2B anchors. The authors' TensorFlow code returns twice this value, since
    it adds the means of the two directions; multiply the learning rate by two to imitate it with an optimiser that is
    not scale-free.

    Args:
        z1: [B, d] unit-norm projections of the first view, with gradient.
        z2: [B, d] unit-norm projections of the second view, with gradient; row i shows the same image as row i of z1.
        temperature: softmax temperature, > 0 (paper: 0.1 on ImageNet, 0.5 on CIFAR-10).

    Returns:
        Scalar mean over the local 2B anchors, in nats; candidates are the views of all ranks. log(2B - 1) when all are
        alike.
    """
    B = len(z1)
    candidates = torch.cat([gather(z1), gather(z2)])  # [2N, d], N = B * world size
    N = len(candidates) // 2
    logits = torch.cat([z1, z2]) @ candidates.T / temperature  # [2B, 2N]
    first = torch.arange(B, device=z1.device) + rank() * B  # where this rank's images stand among the first views
    itself, partner = torch.cat([first, first + N]), torch.cat([first + N, first])
    logits = logits.scatter(1, itself[:, None], -torch.inf)  # no view is its own candidate
    return F.cross_entropy(logits, partner)


@full_precision
def info_nce(query: Tensor, key: Tensor, temperature: float, negatives: Tensor | None = None) -> Tensor:
    """Every query must find the key of its image among the keys of the global batch.

    Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, arXiv:1807.03748, eq. (4); in
    this one-sided form MoCo v3's algorithm 1 (Chen et al., ICCV 2021, arXiv:2104.02057) without its factor of
    2 * temperature.

    Args:
        query: [S * B, d] unit-norm, S queries an image: S blocks of the batch, one below the other.
        key: [B, d] unit-norm; row i matches row i of each block. Gathered with whatever gradient it has.
        temperature: softmax temperature, > 0.
        negatives: [K, d] unit-norm, further candidates that are nobody's positive.

    Returns:
        Scalar mean over the local queries, in nats.
    """
    candidates = gather(key)  # [N, d], N = B * world size
    if negatives is not None:
        candidates = torch.cat([candidates, negatives])
    B = len(key)
    positive = (torch.arange(B, device=key.device) + rank() * B).repeat(len(query) // B)
    return F.cross_entropy(query @ candidates.T / temperature, positive)


@full_precision
def queue_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Every query must tell its own key from those of a queue; the other images of the batch play no part.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, arXiv:1911.05722, eq. (1)
    and algorithm 1.

    Args:
        query: [B, d] unit-norm, with gradient.
        key: [B, d] unit-norm, no gradient; row i matches query i.
        queue: [K, d] unit-norm, no gradient.
        temperature: softmax temperature, > 0 (paper: 0.07; MoCo v2: 0.2).

    Returns:
        Scalar mean over the local batch, in nats; log(1 + K) when all are alike.
    """
    positive = (query * key).sum(1, keepdim=True)  # [B, 1]
    logits = torch.cat([positive, query @ queue.T], dim=1) / temperature  # [B, 1 + K]
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))
