"""Stand-ins for BatchNorm that differ in whose statistics they take; `methods.modules.norms` puts them in place."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules._functions import SyncBatchNorm as _AcceleratorSync
from torch.nn.modules.batchnorm import _BatchNorm

from datamodules.errors import UserError
from methods.distributed import gather, world_size


def _through_children(norm: nn.Module, x: Tensor) -> Tensor:
    """Runs what a norm holds in itself: timm's BatchNormAct2d carries a drop layer and an activation."""
    for layer in norm.children():
        x = layer(x)
    return x


class _BatchNormOfTraining(_BatchNorm):
    """BatchNorm of [B, C, ...] whose training statistics a subclass takes; evaluation is that of any BatchNorm."""

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.dim() >= 2, f"BatchNorm takes [B, C, ...], not {list(input.shape)}"

    def normalise(self, x: Tensor) -> Tensor:
        """[B, C, ...] to the same shape with the batch's statistics; moves the running ones."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, ...] to [B, C, ...], in the input's type."""
        self._check_input_dim(input)
        return _through_children(self, self.normalise(input) if self.training else super().forward(input))

    def _count_batch(self) -> float:
        """Counts a batch; returns how far the running statistics go towards it."""
        if not self.track_running_stats:
            return 0.0
        assert self.num_batches_tracked is not None, "a norm that tracks statistics counts batches"
        self.num_batches_tracked.add_(1)
        return 1.0 / int(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Moves the running statistics towards a batch's mean [C] and unbiased variance [C]."""
        step = self._count_batch()
        for running, batch in ((self.running_mean, mean), (self.running_var, var)):
            if self.track_running_stats and running is not None:
                # Not lerp_: this is torch's own rounding, and a momentum of 0 leaves every bit as it was.
                running.mul_(1 - step).add_(batch, alpha=step)


def _over_channels(statistic: Tensor, x: Tensor) -> Tensor:
    """[C] in a shape that broadcasts over x [B, C, ...]."""
    return statistic.view(1, -1, *[1] * (x.dim() - 2))


def _all_but_channels(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.dim()))


class _GlobalBatchNorm(torch.autograd.Function):
    """Training BatchNorm over the rows of all ranks, one collective in each direction.

    Forward gathers every rank's count, mean and variance and merges them (Chan et al., "Updating Formulae and a
    Pairwise Algorithm for Computing Sample Variances", 1979), which is as exact as two passes over the whole batch;
    a sum of squares would cancel where the mean is large. Ranks may hold different numbers of rows, but not none.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the output, and the global mean [C] and unbiased variance [C]."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(wide, _all_but_channels(x), correction=0)
        C = len(mean)
        own = torch.cat([mean.new_full((1,), x.numel() // C), mean, var])
        counts, means, variances = gather(own[None]).split([1, C, C], dim=1)  # [W, 1], [W, C], [W, C]
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        var = (counts * (variances + (means - mean).square())).sum(0) / count
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        unbiased = var * (count / (count - 1))
        ctx.mark_non_differentiable(mean, unbiased)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        """Gradient of all ranks' losses for x, and of this rank's own for weight and bias, which DDP averages."""
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        grad = grads[0].to(mean.dtype)
        normalised = (x - _over_channels(mean, x)) * _over_channels(inverse_std, x)
        dims = _all_but_channels(x)
        own = torch.stack([grad.sum(dims), (grad * normalised).sum(dims)])  # [2, C]
        total = own.clone()
        dist.all_reduce(total)
        shift, slope = (_over_channels(part, x) for part in total / count)
        scale = inverse_std if weight is None else inverse_std * weight
        grad_x = ((grad - shift - normalised * slope) * _over_channels(scale, x)).to(x.dtype)
        if weight is None:
            return grad_x, None, None, None
        return grad_x, own[1].to(weight.dtype), own[0].to(weight.dtype), None


class SyncBatchNorm(_BatchNormOfTraining):
    """BatchNorm with the statistics of all ranks' rows, forward and backward; plain BatchNorm on one process.

    Accelerators run torch's own kernels. Those refuse CPU tensors, and DDP on CPU refuses any `nn.SyncBatchNorm`:
    hence a class of its own, with its own arithmetic there.
    """

    def normalise(self, x: Tensor) -> Tensor:
        """[B, C, ...] to the same shape with the statistics of the global batch; B may differ between ranks."""
        if world_size() == 1:
            return _BatchNorm.forward(self, x)
        if x.device.type == "cpu":
            y, mean, var = _GlobalBatchNorm.apply(x, self.weight, self.bias, self.eps)  # pyright: ignore[reportGeneralTypeIssues]
            self._track(mean, var)
            return y
        running = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        return _AcceleratorSync.apply(  # pyright: ignore[reportReturnType]
            x, self.weight, self.bias, *running, self.eps, self._count_batch(), dist.group.WORLD, world_size()
        )


class SplitBatchNorm(_BatchNormOfTraining):
    """BatchNorm in N groups of consecutive rows, as N devices with BatchNorm of their own would have it.

    One process imitates the local statistics that MoCo's shuffling presumes (He et al., 2020, arXiv:1911.05722, section
    3.3). The running statistics take the mean over the groups. B need not divide by N: the first B mod N groups have a
    row more.

    A loop, because it costs next to nothing (128 x 64 x 32 x 32 in 8 groups on one core: 82 ms with backward, plain
    BatchNorm 75) and keeps the channels-last layout; groups as channels, [B / N, N * C, ...], cost two copies (145 ms).
    """

    num_splits: int

    def normalise(self, x: Tensor) -> Tensor:
        """[B, C, ...] to the same shape, each group with its own statistics.

        Raises:
            UserError: a group would have fewer than two values a channel.
        """
        B, N = len(x), self.num_splits
        sizes = [B // N + (group < B % N) for group in range(N)]
        positions = x[0, 0].numel() if B else 0
        if sizes[-1] * positions < 2:
            # Two rows a group also where one would do: heads behind this layer have but one value a channel and row.
            raise UserError(
                f"--model.batch_norm split:{N} cuts a batch of {B} into groups too small for statistics: set "
                f"--data.batch_size (and --model.micro_batch_size, where it is used) to at least {2 * N}, or choose "
                "fewer groups."
            )
        # Momentum 1 makes of a "running" statistic the group's own.
        stats = [[torch.zeros_like(r) for _ in sizes] for r in (self.running_mean, self.running_var) if r is not None]
        means, variances = stats or ([None] * N, [None] * N)
        parts = [
            F.batch_norm(rows, mean, var, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
            for rows, mean, var in zip(x.split(sizes), means, variances, strict=True)
        ]
        if stats:
            self._track(*(torch.stack(groups).mean(0) for groups in stats))
        return torch.cat(parts)

    def extra_repr(self) -> str:
        """BatchNorm's settings and the number of groups."""
        return f"{super().extra_repr()}, num_splits={self.num_splits}"


class GroupNorm(nn.GroupNorm):
    """GroupNorm (Wu and He, ECCV 2018, arXiv:1803.08494) in the place of a BatchNorm, whatever that held in itself."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, ...] to [B, C, ...]; no image sees another."""
        return _through_children(self, super().forward(input))


class WSConv2d(nn.Conv2d):
    """Convolution whose filters are standardised at each use.

    Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization", 2019,
    arXiv:1903.10520; as in the authors' PyTorch code, the std over a filter's weights is unbiased and 1e-5 is added to
    it. The gradient flows through mean and std; the bias, where there is one, is left alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        std, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(input, (self.weight - mean) / (std + 1e-5), self.bias)
