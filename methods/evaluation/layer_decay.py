"""Layer-wise decay of the learning rate: the earlier a layer, the less fine-tuning moves it.

Clark et al., "ELECTRA", ICLR 2020, arXiv:2003.10555; for ViTs as in BEiT (arXiv:2106.08254) and MAE (arXiv:2111.06377),
whose rule for a network of n blocks is lr x decay^(n + 1 - i) for block i from 1, decay^(n + 1) for all before the
blocks, and the full rate for all behind them. Blocks are those of a ViT, the stages of a ResNet or a hierarchical
transformer, the convolutions of a plain stack.
"""

import re
from typing import Any

from torch import nn

from datamodules.errors import UserError

# The first part of a parameter's name that counts: blocks.3., layer2., stages.0., encoder_layer_7., features.4.
_BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers|layer|stages|features|encoder_layer_)[.]?\d+\.")


def depths(network: nn.Module) -> tuple[dict[str, int], int]:
    """How deep each parameter of a backbone lies, by its name and the order of registration.

    Args:
        network: a backbone whose blocks are numbered in their names.

    Returns:
        Name to depth, and the depth of the head: 0 before the blocks, 1 to n in them, n + 1 behind them.

    Raises:
        UserError: no name counts.
    """
    blocks = {name: found[0] for name, _ in network.named_parameters() if (found := _BLOCK.search(name))}
    if not blocks:
        raise UserError(
            f"layer_decay goes by the blocks of the network, and {type(network).__name__} has none that are numbered "
            "in the names of its parameters: set --model.layer_decay 1."
        )
    # A number with nothing but vectors is the norm behind a convolution, and as deep as that.
    layers = {blocks[name] for name, p in network.named_parameters() if name in blocks and p.ndim > 1}
    depth_of_block: dict[str, int] = {}
    depth_of: dict[str, int] = {}
    reached = 0
    for name, _ in network.named_parameters():
        block = blocks.get(name)
        if block is None:
            depth_of[name] = 0 if not reached else -1  # behind the blocks, whose number is not known yet
            continue
        if block not in depth_of_block:
            reached += block in layers
            depth_of_block[block] = reached
        depth_of[name] = depth_of_block[block]
    head = reached + 1
    return {name: head if depth < 0 else depth for name, depth in depth_of.items()}, head


def decayed(groups: list[dict[str, Any]], backbone: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Divides parameter groups by depth, with the share of the rate for each.

    Args:
        groups: of `OptimConfig.groups`; what is not the backbone's is the head's.
        backbone: see `depths`.
        decay: from one layer to the one before it, in (0, 1]; 1 leaves the groups as they are.

    Returns:
        Groups with `lr_scale`, the deepest last in each of the given ones.
    """
    if decay == 1:
        return groups
    depth_by_name, head = depths(backbone)
    depth_of = {id(parameter): depth_by_name[name] for name, parameter in backbone.named_parameters()}
    divided = []
    for group in groups:
        by_depth: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_depth.setdefault(depth_of.get(id(parameter), head), []).append(parameter)
        for depth, parameters in sorted(by_depth.items()):
            name = f"{group['name']}, layer {depth} of {head}"
            divided.append(group | {"name": name, "params": parameters, "lr_scale": decay ** (head - depth)})
    return divided
