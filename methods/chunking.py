"""Large batches on a small device: embed in chunks, contrast over the whole batch, recompute each chunk in backward.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021, arXiv:2101.06983. A
contrastive loss couples images only through their embeddings, so a chunk's activations are needed only while its own
gradient is taken. Here each chunk is one activation checkpoint inside one autograd graph, which leaves the loss, its
gradient, mixed precision and DDP to the ordinary machinery: no second optimiser step, no cached gradients.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Batch = TypeVar("Batch")


@contextmanager
def _no_second_count(network: nn.Module) -> Iterator[None]:
    """Keeps BatchNorm's running statistics still while a chunk is recomputed, as its images are counted already.

    A momentum of zero, and not `track_running_stats`, because autograd insists on the same saved tensors in both
    passes.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]  # pyright: ignore[reportOptionalMemberAccess]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)  # pyright: ignore[reportOptionalMemberAccess]


def embed_in_chunks(
    embed: Callable[[Batch], dict[str, Tensor]], chunks: list[Batch], network: nn.Module
) -> dict[str, Tensor]:
    """Embeds the chunks one by one without keeping their activations.

    Equal to embedding the whole batch at once, gradient included, as long as no image sees another; with BatchNorm in
    training the statistics are those of each chunk. Dropout and drawn masks repeat themselves in backward (the
    generator is restored).

    Args:
        embed: maps a chunk to named tensors with one row an image.
        chunks: the batch in pieces; they need not be equally long.
        network: holds every module that `embed` runs.

    Returns:
        The named tensors of the whole batch, concatenated in order.
    """

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _no_second_count(network)  # first pass, recomputation

    def embedded(chunk: Batch) -> dict[str, Tensor]:
        return checkpoint(embed, chunk, use_reentrant=False, context_fn=contexts)  # pyright: ignore[reportReturnType]

    parts = [embedded(chunk) for chunk in chunks]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
