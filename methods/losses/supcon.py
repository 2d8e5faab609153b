"""Supervised contrast: every view must find all views of its class, and none of the others."""

from typing import Literal

import torch
from torch import Tensor

from methods.distributed import gather, rank
from methods.losses.precision import full_precision


@full_precision
def supervised_contrast(
    z: Tensor,
    positives: Tensor,
    temperature: float,
    base_temperature: float,
    contrast_mode: Literal["all", "one"] = "all",
) -> Tensor:
    """Cross-entropy of every view with a uniform target over its positives, the mean outside of the logarithm.

    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv:2004.11362, eq. (2), L_out. An anchor without
    any positive adds nothing to the sum, but counts in the mean.

    Args:
        z: [B, V, d] unit-norm projections, with gradient.
        positives: [B, N] with 1 where image j of the global batch is a positive of local image i, itself included, else
            0. A view is never a positive of its own.
        temperature: softmax temperature T, > 0.
        base_temperature: the loss is multiplied by T / base_temperature, the authors' factor against the gradient's
            growth with 1 / T; T itself for none.
        contrast_mode: anchors are `all` views or `one`, the first; candidates are always all.

    Returns:
        Scalar mean over the local anchors; candidates are the views of all ranks.
    """
    B, V = z.shape[:2]
    anchors = z if contrast_mode == "all" else z[:, :1]
    A = anchors.shape[1]
    candidates = gather(z).transpose(0, 1).flatten(0, 1)  # [VN, d], view after view
    N = len(candidates) // V
    logits = anchors.transpose(0, 1).flatten(0, 1) @ candidates.T / temperature  # [AB, VN]
    image = torch.arange(B, device=z.device) + rank() * B  # where this rank's images stand in the global batch
    itself = torch.cat([image + view * N for view in range(A)])[:, None]  # [AB, 1]
    log_p = logits - logits.scatter(1, itself, -torch.inf).logsumexp(1, keepdim=True)
    target = positives.to(logits.dtype).repeat(A, V).scatter(1, itself, 0.0)  # [AB, VN]
    found = (target * log_p).sum(1) / target.sum(1).clamp(min=1)
    return -temperature / base_temperature * found.mean()
