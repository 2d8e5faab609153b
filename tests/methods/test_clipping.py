"""Each gradient is clipped by its own norm."""

import torch
from torch import nn

from methods.clipping import clip_each


def test_shortens_the_long_and_leaves_the_short():
    long, short, without = (nn.Parameter(torch.randn(3, 4)) for _ in range(3))
    long.grad, short.grad = torch.randn(3, 4) * 100, torch.randn(3, 4) * 0.01
    before = long.grad.clone(), short.grad.clone()
    clip_each([long, short, without], 3.0)
    torch.testing.assert_close(long.grad, before[0] * 3.0 / (before[0].norm() + 1e-6))
    assert torch.equal(short.grad, before[1])
    assert without.grad is None
    clip_each([without], 3.0)
