"""Features of a whole split by a network at rest: what every protocol on frozen features starts from."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datamodules import ImageDataModule
from datamodules.cache import SplitName
from datamodules.views import Views
from methods.distributed import gather

Embed = Callable[[Tensor], Tensor]
Images = Callable[[Views], Tensor]


class Features(NamedTuple):
    """What a network makes of N images.

    Attributes:
        h: [N, D] float32, on the device.
        label: [N] int64, -1 where unknown.
        index: [N] int64, ascending: positions in the split.
    """

    h: Tensor
    label: Tensor
    index: Tensor


def clean(views: Views) -> Tensor:
    """The clean image [B, C, H, W] of an evaluation batch, as it is."""
    return views.global_views[0]


@torch.no_grad()
def extract(
    network: nn.Module | Embed,
    data: ImageDataModule,
    split: SplitName,
    device: torch.device,
    max_images: int | None = None,
    *,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    images: Images = clean,
    raw: bool = False,
    all_ranks: bool = False,
) -> Features:
    """Features of the clean images of a split, each image exactly once, those that cannot be read left out.

    Args:
        network: maps [B, C, H, W] to [B, D]; a module is in evaluation mode meanwhile, and as it was afterwards.
        data: offers the images; set up here if no Trainer has done so.
        split: `train` or `val`.
        device: where the network is, and the features shall be.
        max_images: only a fixed random subset of this size; None for all images.
        autocast: makes the context of a forward pass, for example a Trainer's `precision_plugin.val_step_context`.
        images: makes the network's input [B, C, H, W] from a batch of clean views.
        raw: intensities in [0, 1] instead of normalised ones.
        all_ranks: the images of all ranks on every rank, equal to what one process gets; otherwise this rank's share.
    """
    if data.trainer is None:
        data.prepare_data()
        data.setup("validate")
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with at_rest(network):
        for views in data.clean_batches(split, device, max_images, raw):
            pictures = images(views)
            with autocast():
                h = network(pictures).float()
            parts.append((h, views.label, views.index))
    h, label, index = (torch.cat(column) for column in zip(*parts, strict=True))
    if all_ranks:  # all ranks have as many rows, padding included
        h, label, index = gather(h), gather(label), gather(index)
    kept = index.argsort()
    kept = kept[index[kept] >= 0]
    return Features(h[kept], label[kept], index[kept])


@contextmanager
def at_rest(network: nn.Module | Embed) -> Iterator[None]:
    """A module in evaluation mode, each of its parts as it was afterwards; other functions pass."""
    modes = {module: module.training for module in network.modules()} if isinstance(network, nn.Module) else {}
    if isinstance(network, nn.Module):
        network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
