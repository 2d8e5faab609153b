"""Instance discrimination with a penalty on what depends on the views: ReLIC and ReLICv2.

Each image has a distribution over "which image of the batch is this". The contrast wants it at the image itself, the
invariance wants it to be the same whichever two views it was made from.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.distributed import gather, rank
from methods.losses.precision import full_precision


@full_precision
def contrast_and_invariance(logits: Tensor, reference: Tensor, positive: Tensor, stop_gradient: bool) -> Tensor:
    """The two terms that both papers weigh, of any number of pairs of views at once.

    Mitrovic et al., "Representation Learning via Invariant Causal Mechanisms", ICLR 2021, arXiv:2010.07922, eq. (3).

    Args:
        logits: [..., B, C] scores of C candidates for each of B images, already divided by the temperature.
        reference: [..., B, C] scores of the same candidates, made from other views.
        positive: [B] int64, where among the candidates the image itself stands.
        stop_gradient: no gradient through the reference, which is then a target for the logits alone.

    Returns:
        [2, ...], means over the images in nats: the cross-entropy of the logits, and the Kullback-Leibler divergence
        KL(reference || logits), which is 0 where both distributions agree.
    """
    log_p, log_q = logits.log_softmax(-1), reference.log_softmax(-1)
    if stop_gradient:
        log_q = log_q.detach()
    contrast = -log_p.gather(-1, positive[:, None].expand(*log_p.shape[:-1], 1)).mean((-2, -1))
    invariance = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1).mean(-1)
    return torch.stack([contrast, invariance])


@full_precision
def relic(
    online1: Tensor,
    online2: Tensor,
    target1: Tensor,
    target2: Tensor,
    temperature: float | Tensor,
    stop_gradient: bool = False,
) -> Tensor:
    """Contrast and invariance of two views, where one direction's distribution is the reference of the other.

    Mitrovic et al., "Representation Learning via Invariant Causal Mechanisms", ICLR 2021, arXiv:2010.07922, eq. (3)
    with the mean over images in place of their sum.

    Args:
        online1: [B, d] unit-norm, first view.
        online2: [B, d] unit-norm, second view of the same images.
        target1: [B, d] unit-norm, first view through the target network, or `online1` itself where there is none.
        target2: [B, d], likewise of the second view.
        temperature: softmax temperature, > 0.
        stop_gradient: no gradient through the first argument of the divergences. The paper has none, nor does it say
            so.

    Returns:
        [2, 2]: contrast and invariance, each of the directions 1 -> 2 and 2 -> 1; means over the local images against
        candidates from all ranks, in nats.
    """
    logits = torch.stack([online1 @ gather(target2).T, online2 @ gather(target1).T]) / temperature  # [2, B, N]
    return contrast_and_invariance(logits, logits.flip(0), _own_rows(len(online1), online1.device), stop_gradient)


@full_precision
def relic_v2(
    online: Tensor,
    target: Tensor,
    temperature: float | Tensor,
    negatives: Tensor | None = None,
    stop_gradient: bool = True,
) -> Tensor:
    """Contrast and invariance of every online view with every target view.

    Tomasev et al., "Pushing the limits of self-supervised ResNets", 2022, arXiv:2201.05119, section 3. The reference of
    an image's distribution is that with anchor and positive in exchanged roles: its target view against the online
    views of the candidates.

    Args:
        online: [B, V, d] unit-norm, with gradient.
        target: [B, L, d] unit-norm, of the large views.
        temperature: softmax temperature, > 0.
        negatives: [V, L, B, n] int64, the other images that an image is contrasted with, as positions in the global
            batch, no position twice; None for all of them.
        stop_gradient: no gradient through the reference.

    Returns:
        [2, V, L]: contrast and invariance of each pair; means over the local images, in nats.
    """
    logits = torch.einsum("bvd,nld->vlbn", online, gather(target)) / temperature  # N images on all ranks
    reference = torch.einsum("bld,nvd->vlbn", target, gather(online)) / temperature
    positive = _own_rows(len(online), online.device)
    if negatives is not None:
        itself = positive[:, None].expand(*negatives.shape[:-1], 1)
        candidates = torch.cat([itself, negatives], dim=-1)  # [V, L, B, 1 + n]
        logits, reference = logits.gather(-1, candidates), reference.gather(-1, candidates)
        positive = torch.zeros_like(positive)
    return contrast_and_invariance(logits, reference, positive, stop_gradient)


def sample_negatives(uniforms: Tensor, population: int) -> Tensor:
    """For each local image other images of the global batch, without repetition, every choice as likely as any other.

    Floyd's algorithm (Bentley, Floyd, "Programming pearls: a sample of brilliance", Communications of the ACM, 1987),
    which takes as many numbers as it draws, whatever it draws from.

    Args:
        uniforms: [..., B, n] numbers in [0, 1), n < population.
        population: N, images in the global batch.

    Returns:
        [..., B, n] int64 positions in the global batch.
    """
    others, count = population - 1, uniforms.shape[-1]
    picked = torch.full_like(uniforms, -1, dtype=torch.int64)
    for k in range(count):
        last = others - count + k
        draw = (uniforms[..., k] * (last + 1)).long().clamp(max=last)  # the product may be rounded up
        picked[..., k] = torch.where((picked == draw[..., None]).any(-1), last, draw)
    itself = _own_rows(uniforms.shape[-2], uniforms.device)
    return picked + (picked >= itself[:, None])  # they were numbered without the image itself


def _own_rows(B: int, device: torch.device) -> Tensor:
    """[B] int64 positions of this rank's images in the global batch."""
    return torch.arange(B, device=device) + rank() * B
