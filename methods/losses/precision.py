"""Losses compute in fp32 whatever the run's precision.

A sum of exponentials or a covariance does not survive 8 bits of mantissa, nor does the length of a vector.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

_HALF = (torch.float16, torch.bfloat16)


def full_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Runs a loss outside autocast, half-precision tensors widened to fp32; wider ones (float64) stay."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs) -> Tensor:
        device = next(leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        args, kwargs = tree_map(_widen, (args, kwargs))  # tensors in lists and dictionaries included
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapped


def unit_norm(x: Tensor, dim: int = 1) -> Tensor:
    """Vectors of length 1, to fp32's precision on any device; autocast on a CPU would leave them as coarse as bf16.

    Args:
        x: of any norm and floating type.
        dim: along which a vector lies.

    Returns:
        The shape of `x`, fp32 or wider.
    """
    return F.normalize(_widen(x), dim=dim)


def _widen(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in _HALF else x
