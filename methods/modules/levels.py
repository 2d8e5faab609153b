"""Features of several depths of a network, in one pass and without a change to its code or its parameters' names."""

import difflib
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from methods.backbones import ConvNet, channels_of, fixed_image_size
from methods.losses.precision import unit_norm
from methods.modules.heads import mlp

_CONVNET = ["layers.3", "layers.6", "layers.10"]  # where its first three blocks end
_RESNET = ["layer1", "layer2", "layer3"]
_TRIAL_SIZE = 64  # pixels; networks for any size of image take this one


class _Tap:
    """Keeps what some parts of a network give while `level_features` runs it.

    Its hooks are never taken off: torch.compile would go on filling the lists of hooks it has met before. Deep copies
    of the network have a tap of their own.
    """

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        self.names = names
        self.pooled: dict[str, Tensor] | None = None  # outside `level_features` nothing is kept
        for name in names:
            network.get_submodule(name).register_forward_hook(partial(self.keep, name))

    def keep(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.pooled is None:
            return
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise UserError(
                f"levels: part {name!r} gives no feature map [B, C, h, w]: name parts of the network that do."
            )
        self.pooled[name] = output.mean((2, 3))


def tap_levels(network: nn.Module, names: list[str] | None) -> list[int]:
    """Prepares a network for `level_features`. To be done once, before it is copied.

    Args:
        network: a backbone with attribute `feature_dim`, which takes images of any size.
        names: the parts whose feature maps are levels, as `named_modules` calls them, from the first to the last that
            is not the network's own output; None for those of a ResNet (of torchvision's or timm's) or of `convnet`.

    Returns:
        Sizes C_1 to C_L of the levels, L = len(names) + 1; the last is the size D of the network's own features.

    Raises:
        UserError: the network has no such part, or takes images of one size only.
    """
    kind = type(network).__name__
    if fixed_image_size(network):
        raise UserError(
            f"levels: {kind} takes images of one size only, here it sees patches of them too: choose a ResNet or "
            "convnet as --model.backbone.name."
        )
    names = _usual_levels(network) if names is None else names
    known = [name for name, _ in network.named_modules() if name]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "names are those of named_modules()."
            raise UserError(f"levels: {kind} has no part {name!r}: {hint}")
    network.level_tap = _Tap(network, names)  # pyright: ignore[reportArgumentType]
    was_training = network.training
    with torch.no_grad():  # in evaluation mode, which leaves BatchNorm's averages alone
        trial = level_features(network.eval(), torch.zeros(1, channels_of(network) or 3, _TRIAL_SIZE, _TRIAL_SIZE))
    network.train(was_training)
    return [level.shape[1] for level in trial]


def level_features(network: Any, images: Tensor) -> list[Tensor]:
    """Runs a network once and averages the map of every level over its positions.

    Args:
        network: one that `tap_levels` has prepared, or a copy of it.
        images: [B, C, H, W].

    Returns:
        [B, C_l] for each level, from the first; the last is the network's own features [B, D].
    """
    tap = network.level_tap
    tap.pooled = {}
    try:
        features = network(images)
        if missing := [name for name in tap.names if name not in tap.pooled]:
            raise UserError(f"levels: {', '.join(missing)} did not run: name parts that every forward pass calls.")
        return [*(tap.pooled[name] for name in tap.names), features]
    finally:
        tap.pooled = None


class LevelHeads(nn.Module):
    """A projector of its own for every level of a network.

    Args:
        dims: size C_l of each level's vector.
        hidden_dims: width of the hidden layer of each level's projector.
        out_dim: size d of the embeddings.
    """

    def __init__(self, dims: list[int], hidden_dims: list[int], out_dim: int) -> None:
        super().__init__()
        pairs = zip(dims, hidden_dims, strict=True)
        self.levels = nn.ModuleList(mlp(dim, hidden, out_dim, norm=False, bias=True) for dim, hidden in pairs)

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """L vectors [B, C_l] to unit-norm embeddings [B, L, d]."""
        z = [head(vector) for head, vector in zip(self.levels, vectors, strict=True)]
        return unit_norm(torch.stack(z, dim=1), dim=2)


def _usual_levels(network: nn.Module) -> list[str]:
    """The stages before the last, whose pooled map is the network's features."""
    if isinstance(network, ConvNet):
        return _CONVNET
    if all(hasattr(network, name) for name in (*_RESNET, "layer4")):
        return _RESNET
    raise UserError(
        f"The levels of {type(network).__name__} are not known: name parts of it that give feature maps in "
        "--model.levels (its features are the last level), or choose a ResNet or convnet as --model.backbone.name."
    )
