"""`full_precision`: losses see fp32 whatever the run computes in."""

import pytest
import torch
from torch import Tensor

from methods.losses.precision import full_precision


@full_precision
def product(x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
    """Is fp32 only if both inputs are, and autocast is off."""
    return scale * (x @ y.T)


@full_precision
def of_many(views: list[Tensor], weights: dict[str, Tensor]) -> Tensor:
    return sum(view.sum() for view in views) * weights["w"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    x, y = torch.randn(2, 3, 16).to(dtype)
    assert torch.equal(product(x, y), x.float() @ y.float().T)
    assert torch.equal(product(x, y=y, scale=2.0), 2 * (x.float() @ y.float().T))
    assert torch.equal(product(x=x, y=y), x.float() @ y.float().T)


def test_half_precision_within_lists_and_dictionaries_is_widened():
    x, y = torch.full((2, 4000), 0.1).bfloat16()  # the sum of so many would not fit in 8 bits of mantissa
    result = of_many([x, y], weights={"w": torch.ones((), dtype=torch.bfloat16)})
    assert result.dtype == torch.float32
    assert torch.equal(result, x.float().sum() + y.float().sum())


def test_autocast_is_off_within_and_on_again_after():
    x, y = torch.randn(2, 3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(product(x, y), product(x, y))
        assert product(x, y).dtype == torch.float32
        assert (x @ y.T).dtype == torch.bfloat16
    assert torch.equal(product(x, y), x @ y.T)


def test_double_precision_stays():
    x, y = torch.randn(2, 3, 16, dtype=torch.float64)
    assert product(x, y).dtype == torch.float64


def test_gradients_come_back_in_the_callers_precision():
    x, y = (torch.randn(3, 16).bfloat16().requires_grad_() for _ in range(2))
    product(x, y).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad, y.detach().float().sum(0).bfloat16().expand(3, 16))
