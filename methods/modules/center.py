"""The running mean of a teacher's outputs, which DINO takes off them: no output may win for all images."""

import torch
from torch import Tensor, nn


class Center(nn.Module):
    """center <- m * center + (1 - m) * mean of the teacher's outputs, once per optimiser step.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.14294, eq. (4).
    The `QueueUpdate` callback pushes, after each batch, what the step returned in `enqueue`; asking with `at` for the
    center of the next optimiser step moves it. So all batches of an accumulated step see the same center, which moves
    by their mean, as it would for one large batch. Persistent in checkpoints, the same on all ranks.

    Args:
        dim: K, the size of the outputs.
        momentum: m, in [0, 1].
    """

    value: Tensor
    pending: Tensor

    def __init__(self, dim: int, momentum: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(dim))
        self.register_buffer("pending", torch.zeros(dim))  # sum of the batches' means since the center last moved
        self.momentum = momentum
        self.batches = 0  # in `pending`
        self.step = 0  # that the center is for

    @torch.no_grad()
    def push(self, means: Tensor) -> None:
        """Takes note of a batch.

        Args:
            means: [W, K], the mean output of each rank, over equally many images.
        """
        self.pending += means.mean(0)
        self.batches += 1

    @torch.no_grad()
    def at(self, step: int) -> Tensor:
        """[K], the center for an optimiser step, counted from 0; it moves when the step is a new one."""
        if step != self.step and self.batches:
            self.value.lerp_(self.pending / self.batches, 1 - self.momentum)
            self.pending.zero_()
            self.batches = 0
        self.step = step
        return self.value

    def get_extra_state(self) -> Tensor:
        """What the host counts, as torch's state dict takes it up."""
        return torch.tensor([self.batches, self.step])

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the counts from a state dict."""
        self.batches, self.step = state.tolist()
