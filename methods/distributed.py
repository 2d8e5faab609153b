"""What methods need of torch.distributed: who am I, and everybody's features with gradients.

The convention of the whole house: a loss takes its mean over the *local* anchors against the *gathered* candidates. The
mean over ranks of those losses is then the loss of one process with the global batch, and DDP's mean of the gradients
is its gradient.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks, 1 outside distributed runs."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank, 0 outside distributed runs."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    """All ranks' rows; backward sums what every rank's loss says about this rank's rows.

    A backward that only returned the local slice would lose the gradient that reaches our features as other ranks'
    candidates.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        x = x.contiguous()  # before the buffers take its layout: NCCL sends memory, not positions
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        grad = grads[0].clone(memory_format=torch.contiguous_format)  # autograd may hand the same tensor to others
        dist.all_reduce(grad)
        return grad.narrow(0, rank() * ctx.rows, ctx.rows)


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, differentiable through every rank; the identity on one process.

    Args:
        x: [B, ...], the same B on every rank.

    Returns:
        [W * B, ...] with W ranks; this rank's rows start at `rank() * B`.
    """
    return _Gather.apply(x) if world_size() > 1 else x  # pyright: ignore[reportReturnType]
