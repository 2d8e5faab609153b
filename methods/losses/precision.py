"""Losses compute in fp32 whatever the run's precision: a sum of exponentials or a covariance does not survive 8 bits of
mantissa.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def full_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Runs a loss outside autocast, with half-precision tensors widened to fp32. Wider inputs (float64) stay as they
    are.
    """

    @functools.wraps(function)
    def wrapped(*args, **kwargs) -> Tensor:
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        widened = [a.float() if isinstance(a, Tensor) and a.dtype in _HALF else a for a in args]
        with torch.autocast(device, enabled=False):
            return function(*widened, **kwargs)

    return wrapped
