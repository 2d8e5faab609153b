"""Gradient clipping of each parameter by itself."""

from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Shortens every gradient that is longer than `max_norm`, in place and without waiting for the device.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.14294, as in the
    authors' code: a norm for each parameter, not one for all together.

    Args:
        parameters: those without a gradient are left out.
        max_norm: largest 2-norm, > 0.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if grads:
        norms = torch.stack(torch._foreach_norm(grads))  # [P], one entry a tensor
        torch._foreach_mul_(grads, (max_norm / (norms + 1e-6)).clamp(max=1.0).unbind())
