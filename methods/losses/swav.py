"""Soft assignments of images to prototypes that use all prototypes alike, and their prediction from other crops."""

import torch
import torch.distributed as dist
from torch import Tensor

from methods.distributed import world_size
from methods.losses.precision import full_precision


@torch.no_grad()
@full_precision
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes: how much each image belongs to each prototype, while all images together use each prototype alike.

    Cuturi, "Sinkhorn Distances", NeurIPS 2013, arXiv:1306.0895; Caron et al., "Unsupervised Learning of Visual Features
    by Contrasting Cluster Assignments", NeurIPS 2020, arXiv:2006.09882, eq. (3) to (5) and the listing of appendix A.1.
    An iteration gives every prototype the same share, then every image a sum of 1: only the latter holds exactly in the
    end. Every step rescales whole columns or rows, so the listing's factors 1/K, 1/N and the total cancel.

    Args:
        scores: [N, ..., K] of this rank's images with K prototypes. Those of all ranks count; their numbers of images
            may differ. Dimensions in between are problems of their own.
        epsilon: sharpness, > 0: smaller is sharper (paper: 0.05).
        iterations: at least 1 (paper: 3).

    Returns:
        [N, ..., K], non-negative, without gradient; each row sums to 1.
    """
    # A prototype's largest score may go, as its column is rescaled first; whatever the scores, exp cannot overflow.
    codes = (scores - _over_ranks(scores.amax(0, keepdim=True), "MAX")).div_(epsilon).exp_()
    for _ in range(iterations):
        codes /= _over_ranks(codes.sum(0, keepdim=True), "SUM")
        codes /= codes.sum(-1, keepdim=True)
    return codes


@full_precision
def swapped_prediction(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Every crop of an image must predict the codes of the image's other global crops.

    Caron et al., arXiv:2006.09882, eq. (2), and eq. (6) with further crops, as a mean over the pairs.

    Args:
        scores: [B, V, K] of V crops with K prototypes, the G global crops first, with gradient.
        codes: [B, G, K] of the global crops, no gradient; rows sum to 1.
        temperature: softmax temperature, > 0 (paper: 0.1).

    Returns:
        Scalar mean of the cross-entropies of all pairs of different crops of the local images, in nats; log(K) when a
        crop scores the same with all prototypes.
    """
    (B, V, _), G = scores.shape, codes.shape[1]
    logits = scores / temperature
    # As codes sum to 1, -<code, log-softmax> is the log-normaliser less <code, logits>; no [B, V, K] more is held.
    cross_entropy = logits.logsumexp(-1)[:, None] - codes @ logits.mT  # [B, G, V]
    itself = torch.eye(G, V, dtype=torch.bool, device=scores.device)  # no crop predicts its own codes
    return cross_entropy.masked_fill(itself, 0).sum() / (B * G * (V - 1))


@torch.no_grad()
@full_precision
def perplexities(codes: Tensor) -> Tensor:
    """How many prototypes are in use, among all images and by one image.

    In a healthy run the first is far above the second. Where all features are alike both are K, and the loss log(K).

    Args:
        codes: [B, ..., K], non-negative; rows sum to 1. Those of all ranks count, B on each.

    Returns:
        [2], each from 1 to K: exp of the entropy (in nats) of the mean code, and exp of the codes' mean entropy.
    """
    codes = codes.flatten(0, -2)  # [N, K]
    entropy = torch.special.entr(codes).sum(1).mean()
    means = _over_ranks(torch.cat([codes.mean(0), entropy[None]]), "SUM") / world_size()
    return torch.stack([torch.special.entr(means[:-1]).sum(), means[-1]]).exp()


def _over_ranks(x: Tensor, operation: str) -> Tensor:
    """Sum or maximum over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(x, getattr(dist.ReduceOp, operation))
    return x
