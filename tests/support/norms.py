"""A norm layer of each choice, and all that a training step through it leaves behind."""

from typing import Any

import torch
from torch import Tensor, nn

from methods.modules.norms import convert_norms

EXACT = {"rtol": 1e-9, "atol": 1e-11}


def norm(choice: str, channels: int = 5, **options: Any) -> nn.Module:
    return convert_norms(nn.BatchNorm1d(channels, dtype=torch.float64, **options), choice)


def randomised(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def learnt(layer: nn.Module, x: Tensor, upstream: Tensor) -> dict[str, Any]:
    """What a training step leaves behind: output, all gradients, buffers."""
    x = x.clone().requires_grad_()
    out = layer(x)
    out.backward(upstream)
    grads = {f"grad_{name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"out": out.detach(), "grad_x": x.grad, **grads, **dict(layer.named_buffers())}
