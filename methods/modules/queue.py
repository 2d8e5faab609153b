"""First-in first-out memories, as MoCo's negatives or NNCLR's support set."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Ring(nn.Module):
    """The K newest rows that were pushed.

    Persistent in checkpoints, and kept out of DDP's buffer broadcast by `SSLModule`, so that every rank holds the same
    gathered rows. A method reads `keys`; the `QueueUpdate` callback writes, after backward, what the step returned in
    `enqueue`. How many rows came is known on the host, so that asking never waits for the device.

    Attributes:
        keys: [K, ...], the rows.
        seen: rows ever pushed.
    """

    keys: Tensor

    def __init__(self, initial: Tensor) -> None:
        super().__init__()
        self.register_buffer("keys", initial)
        self.seen = 0

    @property
    def pointer(self) -> int:
        """Where the next row goes."""
        return self.seen % len(self.keys)

    @property
    def full(self) -> bool:
        """Whether no initial row is left."""
        return self.seen >= len(self.keys)

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Overwrites the oldest rows, whatever the number of new ones; never waits for the device.

        Args:
            keys: [B, ...]. Of more than K rows the last K remain, where a loop would have left them.
        """
        K, B = len(self.keys), len(keys)
        self.seen += max(0, B - K)  # they would be overwritten by the rest of their own batch
        keys = keys[-K:]
        before_the_end = min(len(keys), K - self.pointer)
        self.keys[self.pointer : self.pointer + before_the_end] = keys[:before_the_end]
        self.keys[: len(keys) - before_the_end] = keys[before_the_end:]
        self.seen += len(keys)

    def get_extra_state(self) -> Tensor:
        """`seen`, as torch's state dict takes it up."""
        return torch.tensor(self.seen)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores `seen` from a state dict."""
        self.seen = int(state)


class FeatureQueue(Ring):
    """The K newest keys [K, d] of unit norm, random directions at first.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, arXiv:1911.05722, section
    3.2.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(F.normalize(torch.randn(size, dim), dim=1))


class LabelQueue(Ring):
    """The labels [K] of a queue's keys, pushed beside them; -1 where unknown."""

    def __init__(self, size: int) -> None:
        super().__init__(torch.full((size,), -1))
