"""LARS as an optimiser among torch's: resumed, with a closure, and without ever waiting for the device."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from methods.lars import LARS


def lars_and_weights() -> tuple[LARS, list[nn.Parameter]]:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "adapt": False, "weight_decay": 0.0}]
    return LARS(groups, lr=0.5, momentum=0.9, weight_decay=1e-2), weights


def set_gradients(weights: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)


def test_lars_resumes_where_it_stopped():
    optimizer, weights = lars_and_weights()
    again, copies = lars_and_weights()
    for step in range(6):
        if step == 3:
            again.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # as from a file
            with torch.no_grad():
                for weight, mine in zip(weights, copies, strict=True):
                    mine.copy_(weight)
        for opt, params in ((optimizer, weights), (again, copies)):
            if opt is optimizer or step >= 3:
                set_gradients(params, step)
                opt.step()
    for weight, mine in zip(weights, copies, strict=True):
        assert torch.equal(weight, mine)


def test_lars_takes_a_closure_with_gradients_on():
    optimizer, weights = lars_and_weights()
    before = weights[0].detach().clone()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weights[0] ** 2).sum()
        loss.backward()
        return loss.detach()

    assert optimizer.step(closure) == (before**2).sum()
    assert not torch.equal(weights[0], before)


class NoAnswerToTheHost(TorchDispatchMode):
    """Fails on operations for whose result Python would have to wait for the device."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket._qualified_op_name.removeprefix("aten::") not in self.WAITING, f"{func} waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("denominator", ["vector", "sum"])
def test_lars_never_waits_for_the_device(denominator):
    optimizer, weights = lars_and_weights()
    optimizer.trust_denominator = denominator
    set_gradients(weights, 0)
    with pytest.raises(AssertionError, match="waits"), NoAnswerToTheHost():  # the guard does see what it should
        float(weights[0].detach().sum())
    with NoAnswerToTheHost():
        optimizer.step()
        optimizer.step()
