"""LARS: each layer's step is scaled by the ratio of its weight norm to its gradient norm.

You et al., "Large Batch Training of Convolutional Networks", 2017, arXiv:1708.03888. The codes of the field disagree on
details that show as soon as the learning rate changes between steps; the two switches below cover them.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """LARS with momentum, in multi-tensor operations that never wait for the device.

    A group with `adapt=False` (biases, norms; see `SSLModule.param_groups`) takes plain momentum steps, as every
    official code does for the parameters it excludes. A weight or gradient of norm zero takes a step of ratio 1.

    Which code is which: SimCLR's TensorFlow code is `lr_in_buffer=True`; BYOL, Barlow Twins and MoCo v3 are the
    default; SwAV (apex LARC) is `trust_denominator="sum"`, without any exclusion.

    Args:
        params: parameters or groups.
        lr: learning rate, >= 0.
        momentum: factor of the momentum buffer, in [0, 1).
        weight_decay: L2 factor, added to the gradient before the ratio is taken.
        trust_coefficient: eta, > 0.
        lr_in_buffer: whether the learning rate enters the momentum buffer (v = m v + lr r g; p -= v) or multiplies it
            on the way out (v = m v + r g; p -= lr v).
        trust_denominator: `vector`: r = eta |p| / |g + wd p|. `sum`: r = eta |p| / (|g| + wd |p| + 1e-8), and a weight
            of norm zero is not decayed either.
        clip: r / lr, at most 1, in place of r, so that a weight moves by min(r, lr) times its gradient: LARC's
            clipping, as in solo-learn's recipes for CIFAR-10 (with a trust coefficient of 0.02).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        lr_in_buffer: bool = False,
        trust_denominator: Literal["vector", "sum"] = "vector",
        clip: bool = False,
    ) -> None:
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0 or trust_coefficient <= 0:
            raise ValueError(
                f"LARS needs lr >= 0, 0 <= momentum < 1, weight_decay >= 0 and trust_coefficient > 0; "
                f"got {lr}, {momentum}, {weight_decay} and {trust_coefficient}."
            )
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adapt": True}
        defaults |= {"trust_coefficient": trust_coefficient, "lr_in_buffer": lr_in_buffer}
        super().__init__(params, defaults | {"trust_denominator": trust_denominator, "clip": clip})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(params, group)
        return loss

    def _step_group(self, params: list[Tensor], group: dict[str, Any]) -> None:
        updates = _updates(params, group)
        if group["lr_in_buffer"]:
            torch._foreach_mul_(updates, group["lr"])
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        torch._foreach_add_(params, buffers, alpha=-1.0 if group["lr_in_buffer"] else -group["lr"])


def _updates(params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """The step r * (g + wd * p) of each parameter, in new memory."""
    lr, decay = group["lr"], group["weight_decay"]
    grads = [p.grad for p in params if p.grad is not None]
    if not group["adapt"]:
        return list(torch._foreach_add(grads, params, alpha=decay))
    weight_norm = torch.stack(torch._foreach_norm(params))  # [P], one entry a tensor
    if group["trust_denominator"] == "sum":
        grad_norm = torch.stack(torch._foreach_norm(grads))
        usable = (weight_norm > 0) & (grad_norm > 0)
        ratio = group["trust_coefficient"] * weight_norm / (grad_norm + decay * weight_norm + 1e-8)
        decays = (decay * usable).unbind()  # no decay where the ratio is undefined
        updates = list(torch._foreach_add(grads, torch._foreach_mul(params, decays)))
    else:
        updates = list(torch._foreach_add(grads, params, alpha=decay))
        grad_norm = torch.stack(torch._foreach_norm(updates))
        usable = (weight_norm > 0) & (grad_norm > 0)
        ratio = group["trust_coefficient"] * weight_norm / grad_norm
    if group["clip"]:
        ratio = (ratio / lr).clamp(max=1.0) if lr else torch.ones_like(ratio)
    torch._foreach_mul_(updates, torch.where(usable, ratio, 1.0).to(params[0].dtype).unbind())
    return updates
