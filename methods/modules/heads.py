"""Maps from backbone features to the space of the loss."""

from typing import Literal

from torch import Tensor, nn


class MLP(nn.Sequential):
    """A Sequential that torch.compile takes: of torch's own containers it skips the call."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., D] through all layers."""
        return super().forward(input)


def mlp(
    *dims: int,
    norm: bool = True,
    bias: bool = False,
    last_norm: Literal["none", "scale", "affine", "plain"] = "none",
    last_bias: bool | None = None,
) -> MLP:
    """Linear - BatchNorm - ReLU for every hidden width, then a linear map.

    Args:
        dims: widths from input to output, at least two: `mlp(512, 2048, 128)` has one hidden layer of 2048.
        norm: BatchNorm in the hidden layers.
        bias: a bias in the hidden linear maps, which a BatchNorm behind it would take away again.
        last_norm: BatchNorm of the output: none; with a `scale` but no offset (SimCLR); `affine` (NNCLR); or `plain`,
            with neither (MoCo v3, SimSiam).
        last_bias: a bias in the last linear map; None for one where no BatchNorm follows.

    Returns:
        A network that maps [B, dims[0]] to [B, dims[-1]].
    """
    layers: list[nn.Module] = []
    for width, hidden in zip(dims[:-2], dims[1:-1], strict=True):
        layers.append(nn.Linear(width, hidden, bias=bias))
        layers += [nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)] if norm else [nn.ReLU(inplace=True)]
    layers.append(nn.Linear(dims[-2], dims[-1], bias=last_norm == "none" if last_bias is None else last_bias))
    if last_norm != "none":
        layers.append(nn.BatchNorm1d(dims[-1], affine=last_norm != "plain"))
    if last_norm == "scale":
        layers[-1].bias.requires_grad_(False)  # torch has no switch for "scale only"; frozen at zero is the same
    return MLP(*layers)
