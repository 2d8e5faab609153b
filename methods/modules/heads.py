"""Maps from backbone features to the space of the loss."""

from torch import nn


def mlp(*dims: int, last_norm: bool = False) -> nn.Sequential:
    """Linear - BatchNorm - ReLU for every hidden width, then a linear map; no biases where a BatchNorm follows.

    Args:
        dims: widths from input to output, at least two: `mlp(512, 2048, 128)` has one hidden layer of 2048.
        last_norm: also normalise the output, with a scale but without an offset (SimCLR, MoCo v3).

    Returns:
        Sequential that maps [B, dims[0]] to [B, dims[-1]].
    """
    layers: list[nn.Module] = []
    for width, hidden in zip(dims[:-2], dims[1:-1], strict=True):
        layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(dims[-2], dims[-1], bias=not last_norm))
    if last_norm:
        norm = nn.BatchNorm1d(dims[-1])
        norm.bias.requires_grad_(False)  # torch has no switch for "scale only"; frozen at zero is the same
        layers.append(norm)
    return nn.Sequential(*layers)
