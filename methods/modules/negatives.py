"""Negatives that are trained: free vectors which learn to be hard to tell from the keys (AdCo)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.distributed import gather
from methods.losses.precision import full_precision


class TrainableNegatives(nn.Module):
    """K free vectors, first filled with keys in order and from then on trained.

    Hu et al., "AdCo: Adversarial Contrast for Efficient Learning of Unsupervised Representations from Self-Trained
    Negative Adversaries", CVPR 2021, arXiv:2011.08435. The vectors keep the length that training gives them; a loss
    takes their directions.

    How many rows are filled is known on the host, so that asking for it never waits for the device; it is part of the
    state dict.

    Attributes:
        weight: [K, d], standard normal until filled.
        filled: rows that hold keys.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, dim))
        self.filled = 0

    @property
    def full(self) -> bool:
        """Whether every row has been filled, so that training them has begun."""
        return self.filled == len(self.weight)

    def forward(self) -> Tensor:
        """[K, d] directions of unit norm, with gradient."""
        return F.normalize(self.weight, dim=1)

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Fills the next rows; keys for which there is no room are left out.

        Args:
            keys: [B, d] of unit norm, the same on every rank.
        """
        keys = keys[: len(self.weight) - self.filled]
        self.weight[self.filled : self.filled + len(keys)] = keys.to(self.weight.dtype)
        self.filled += len(keys)

    def get_extra_state(self) -> Tensor:
        """`filled`, as torch's state dict takes it up."""
        return torch.tensor(self.filled)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores `filled` from a state dict."""
        self.filled = int(state)


@torch.no_grad()
@full_precision
def key_probability(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """How much of a query's softmax falls to real keys rather than to negatives: 1 while these are easy to tell.

    The authors' code logs it as MemLoss, on several ranks for the first rank's keys alone.

    Args:
        query: [B, d] unit-norm.
        key: [B, d] unit-norm; those of all ranks count.
        negatives: [K, d] unit-norm.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar mean over the local queries, in [0, 1].
    """
    keys = gather(key)  # [N, d], N = B * world size
    probability = (query @ torch.cat([keys, negatives]).T / temperature).softmax(dim=1)  # [B, N + K]
    return probability[:, : len(keys)].sum(dim=1).mean()
