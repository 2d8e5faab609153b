"""Which statistics BatchNorm takes, as a choice of the run: any method, any backbone, without a change to either.

| choice | BatchNorm's statistics in training | who trains so |
|---|---|---|
| local | this rank's batch | SupCon, MoCo's queries |
| sync | all ranks' batch | most methods: docs/methods.md |
| shuffle | this rank's, of rows from all ranks where a method calls `shuffled` | MoCo's keys |
| split:N | N groups of this rank's batch, as N devices, and shuffled like them | MoCo on one device |
| none | none: GroupNorm and weight-standardised convolutions | BYOL without batch statistics |
"""

import difflib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from datamodules.errors import UserError
from methods.distributed import gather, rank, world_size
from methods.modules.norm_layers import GroupNorm, SplitBatchNorm, SyncBatchNorm, WSConv2d

_FAMILIAR = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, SyncBatchNorm, SplitBatchNorm)


def check_norm_choice(choice: str) -> None:
    """Refuses what `convert_norms` does not know.

    Raises:
        UserError: naming the choices, and the nearest where there is one.
    """
    kind, _, count = choice.partition(":")
    if choice in ("local", "sync", "shuffle", "none"):
        return
    if kind == "split" and count.isascii() and count.isdecimal() and int(count) >= 1:
        return
    if kind == "split":
        raise UserError(
            f"--model.batch_norm {choice}: split takes the number of groups, at least 1, as --model.batch_norm split:8."
        )
    near = difflib.get_close_matches(choice.lower(), ("local", "sync", "shuffle", "split:8", "none"), n=1)
    raise UserError(
        f"--model.batch_norm {choice} is not one of local, sync, shuffle, split:N (N groups of the batch) and none"
        + (f": did you mean {near[0]}?" if near else ": choose one of them.")
    )


def convert_norms(module: nn.Module, choice: str) -> nn.Module:
    """Gives every BatchNorm in a network the statistics of the run's choice, in place.

    A layer changes its class and nothing else, as torch's lazy modules do: names, parameters, buffers, flags, hooks and
    optimisers' references stay, so a state dict loads across local, sync, shuffle and split. Converting twice is
    converting once, and "local" and "shuffle" leave every layer as it was built.

    "none" has no running statistics to load, and no way back. Each BatchNorm becomes a GroupNorm; each Conv2d
    directly before one standardises its filters ("before" in the order of registration, among layers with parameters),
    so gates (squeeze-and-excitation) and patch embeddings keep their plain convolutions.

    Args:
        module: network with BatchNorm of torch's or timm's, 1-D, 2-D or 3-D.
        choice: "local", "sync", "shuffle", "split:N" or "none".

    Returns:
        The same module.

    Raises:
        UserError: unknown choice, or a layer whose class adds something of its own that would be lost.
    """
    check_norm_choice(choice)
    if choice in ("local", "shuffle"):
        return module
    norms: dict[str, Any] = {name: layer for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}
    convolutions = _convolutions_before_norms(module) if choice == "none" else {}
    for name, layer in {**norms, **convolutions}.items():
        if not _familiar(layer):
            raise UserError(
                f"--model.batch_norm {choice} cannot stand in for layer {name!r}: {type(layer).__name__} does "
                "something of its own. Choose local or shuffle, or a --model.backbone.name of plain BatchNorm and "
                "Conv2d layers."
            )
    for layer in norms.values():
        if choice == "none":
            _become_group_norm(layer)
        elif choice == "sync":
            layer.__class__ = SyncBatchNorm
        else:
            layer.__class__, layer.num_splits = SplitBatchNorm, int(choice.removeprefix("split:"))
    for layer in convolutions.values():
        layer.__class__ = WSConv2d
    return module


def _familiar(layer: nn.Module) -> bool:
    if type(layer) in (*_FAMILIAR, nn.Conv2d):
        return True
    from timm.layers import BatchNormAct2d  # a second of import time that torchvision's networks need not pay

    return type(layer) is BatchNormAct2d  # its drop layer and activation are its children, which ours run too


def _convolutions_before_norms(module: nn.Module) -> dict[str, nn.Conv2d]:
    """Name -> convolution whose output is normalised, as far as the order of registration tells."""
    layers = [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) or next(layer.parameters(recurse=False), None) is not None
    ]
    return {
        name: layer
        for (name, layer), (_, after) in pairwise(layers)
        if isinstance(layer, nn.Conv2d) and isinstance(after, _BatchNorm) and layer.weight[0].numel() > 1
    }


def _become_group_norm(norm: Any) -> None:
    """16 groups (Richemond et al., "BYOL works even without batch statistics", 2020, arXiv:2010.10241), where C allows.

    Else the largest divisor of C below that leaves four channels to a group: in a head, where a channel is one number,
    a group of one would be zero for every image.
    """
    C = norm.num_features
    for buffer in ("running_mean", "running_var", "num_batches_tracked"):
        delattr(norm, buffer)
    norm.__class__ = GroupNorm
    norm.num_channels = C
    norm.num_groups = max(groups for groups in range(1, 17) if C % groups == 0 and (groups == 1 or C // groups >= 4))


@torch.no_grad()
def shuffled(network: Callable[[Any], Any], x: Any) -> Any:
    """Shuffle BN: the batch goes through the network in another order, over all ranks, and comes back in its own.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, arXiv:1911.05722, section
    3.3: a query's statistics and its key's then come from different rows, and do not tell that the two belong together.
    On one process that needs the groups of "split:N"; an undivided batch has the same statistics in any order.

    Args:
        network: maps x to a tensor, or to lists, tuples and dictionaries of tensors, each with B rows.
        x: [B, ...], or lists, tuples and dictionaries of such, all shuffled alike; the same B on every rank (as our
            samplers give it; it is not checked, which would take a collective).

    Returns:
        What the network gives for x, without gradient.
    """
    first, *others = tree_leaves(x)
    B, device = len(first), first.device
    assert all(len(other) == B for other in others), "what is shuffled together must have one row an image"
    order = torch.randperm(world_size() * B, device=device)
    if world_size() > 1:
        dist.broadcast(order, src=0)
    own = slice(rank() * B, (rank() + 1) * B)

    def rows(tensor: Tensor, which: Tensor) -> Tensor:
        return gather(tensor.contiguous())[which]  # a channels-last tensor travels with its strides lost

    outputs = network(tree_map(lambda t: rows(t, order[own]), x))
    back = order.argsort()[own]
    return tree_map(lambda t: rows(t, back), outputs)
