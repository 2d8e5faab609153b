"""The base contrastive module: what runs the networks is kept apart from what compares images."""

import abc
from typing import Any, final

from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import SSLModule, StepOutput
from methods.chunking import embed_in_chunks


class ContrastiveModule(SSLModule):
    """Base of the joint-embedding methods: what runs the networks is kept apart from what compares images.

    That separation is what `micro_batch_size` needs: the batch that is contrasted may be far larger than the one that
    fits through the network.
    """

    def __init__(self, micro_batch_size: int | None = None, **base: Any) -> None:
        """
        Args:
            micro_batch_size: images that go through the network at once; the loss still sees the whole batch. Costs a
                second forward pass, saves the activations. BatchNorm then has the statistics of each micro-batch.
            base: arguments of `SSLModule`.
        """
        if micro_batch_size is not None and micro_batch_size < 1:
            raise UserError(
                f"micro_batch_size {micro_batch_size} must be at least 1, or null for the whole batch at once."
            )
        super().__init__(**base)
        self.micro_batch_size = micro_batch_size

    @abc.abstractmethod
    def embed(self, views: Views) -> dict[str, Tensor]:
        """All that runs the networks; no image sees another (BatchNorm aside). Named tensors with one row an image."""

    @abc.abstractmethod
    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """All that compares images: the loss, local anchors against gathered candidates."""

    @final
    def step(self, views: Views) -> StepOutput:
        """Embeds, in one go or in micro-batches, and contrasts."""
        B, size = len(views.label), self.micro_batch_size
        if size is None or size >= B:
            return self.contrast(self.embed(views))
        chunks = [views.rows(start, start + size) for start in range(0, B, size)]
        return self.contrast(embed_in_chunks(self.embed, chunks, network=self))
