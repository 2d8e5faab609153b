"""Decoupled contrastive learning: NT-Xent without the positive in the denominator.

Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, arXiv:2110.06848. An easy positive then no longer weakens the
pull of its negatives, which makes small batches work.
"""

import torch
from torch import Tensor

from datamodules.errors import UserError
from methods.distributed import gather, rank
from methods.losses.precision import full_precision


@full_precision
def decoupled_nt_xent(z1: Tensor, z2: Tensor, temperature: float, sigma: float | None = None) -> Tensor:
    """Every view is pulled to its partner, and pushed from all views of all other images of the global batch; eq. (6).

    Args:
        z1: [B, d] unit-norm projections of the first view, with gradient.
        z2: [B, d] unit-norm projections of the second view; row i shows the same image as row i of z1.
        temperature: softmax temperature, > 0.
        sigma: concentration of the weights that positives get (DCLW), > 0; None for none.

    Returns:
        Scalar mean over the local 2B anchors, in nats, not bounded below. log(2N - 2) when all of N images are alike,
        N >= 2.

    Raises:
        UserError: the global batch is a single image, which has no negatives.
    """
    B = len(z1)
    candidates = torch.cat([gather(z1), gather(z2)])  # [2N, d], N = B * world size
    N = len(candidates) // 2
    if N < 2:
        raise UserError("DCL contrasts images, and the batch has one: set data.batch_size to at least 2.")
    logits = torch.cat([z1, z2]) @ candidates.T / temperature  # [2B, 2N]
    first = torch.arange(B, device=z1.device) + rank() * B  # where this rank's images stand among the first views
    own = torch.stack([first, first + N], dim=1).repeat(2, 1)  # [2B, 2], both views of the anchor's image
    negative = logits.scatter(1, own, -torch.inf).logsumexp(1)  # [2B]
    cosine = (z1 * z2).sum(1)  # [B]
    weight = 1.0 if sigma is None else positive_weight(cosine, sigma)
    return negative.mean() - (weight * cosine).mean() / temperature


def positive_weight(cosine: Tensor, sigma: float) -> Tensor:
    """Weights of the positives, larger the less the two views agree: 2 - exp(cos / sigma) / E[exp(cos / sigma)].

    The von Mises-Fisher weights of DCLW, with the mean over the global batch.

    Args:
        cosine: [B] cosines between the two views of an image.
        sigma: concentration, > 0; the weights tend to 1 as it grows.

    Returns:
        [B], without gradient; 1 on average over the global batch.
    """
    scores = cosine.detach() / sigma
    everybody = gather(scores)  # [N]
    return 2 - (scores - everybody.logsumexp(0)).exp() * len(everybody)
