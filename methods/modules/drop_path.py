"""Stochastic depth, which students train with and teachers do without."""

from torch import nn
from torchvision.ops import StochasticDepth


def without_drop_path(network: nn.Module) -> nn.Module:
    """Keeps all residual branches of a network, also in training mode, in place.

    Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, arXiv:1603.09382.

    Args:
        network: of timm's or torchvision's layers, or without any such.

    Returns:
        The same network.
    """
    for layer in network.modules():
        if isinstance(layer, StochasticDepth):
            layer.p = 0.0
        elif type(layer).__name__ == "DropPath":  # timm's; its import takes a second, which ResNets need not pay
            layer.drop_prob = 0.0  # pyright: ignore[reportArgumentType]
    return network
