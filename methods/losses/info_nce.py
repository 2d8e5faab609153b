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
