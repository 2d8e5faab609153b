"""A first-in first-out memory of features, as MoCo's negatives or NNCLR's support set."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """The K newest keys, in a ring.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, arXiv:1911.05722, section
    3.2. Persistent in checkpoints, and kept out of DDP's buffer broadcast by `SSLModule`, so that every rank holds the
    same gathered keys. A method reads `keys`; the `QueueUpdate` callback writes, after backward, what the step returned
    in `enqueue`.

    Attributes:
        keys: [K, d] unit-norm, random directions at first.
        pointer: scalar int64, where the next key goes.
        seen: scalar int64, keys ever pushed; as long as it is below K, random directions are among the keys.
    """

    keys: Tensor
    pointer: Tensor
    seen: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Overwrites the oldest keys, whatever the number of new ones; never waits for the device.

        Args:
            keys: [B, d]. Of more than K keys the last K remain, where a loop would have left them.
        """
        K, B = len(self.keys), len(keys)
        position = torch.arange(max(0, B - K), B, device=keys.device)
        self.keys.index_copy_(0, (self.pointer + position) % K, keys[position].to(self.keys.dtype))
        self.pointer.add_(B).remainder_(K)
        self.seen.add_(B)
