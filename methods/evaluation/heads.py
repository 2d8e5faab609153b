"""Linear classifiers on fixed features, many at once: every learning rate and weight decay of a grid in one pass."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.randomness import permutation

MOMENTUM = 0.9
EPSILON = 1e-5  # added to the variance, as BatchNorm does


class Heads(NamedTuple):
    """G linear classifiers.

    Attributes:
        weight: [D, G, C] float32, on features as they are.
        bias: [G, C].
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, h: Tensor) -> Tensor:
        """Logits [G, B, C] of features [B, D], in float32 whatever the context."""
        with torch.autocast(h.device.type, enabled=False):
            return _logits(h.float(), self.weight, self.bias).movedim(1, 0)


def train_heads(
    h: Tensor,
    label: Tensor,
    num_classes: int,
    lr: Sequence[float],
    weight_decay: Sequence[float],
    epochs: int,
    batch_size: int,
    seed: int,
) -> Heads:
    """Trains G softmax classifiers side by side by SGD with momentum 0.9, each as if it were alone.

    All see the same batches: every epoch has all images in a new order, the last batch may be smaller. The rate falls
    to 0 by a cosine, step by step. Weights begin at zero; weight decay is L2 and leaves biases alone. Features are
    standardised first, each to mean 0 and variance 1 over the training images, so that one grid of rates fits features
    of any scale (MAE, arXiv:2111.06377, appendix A.1, puts a BatchNorm there for the same reason); what is returned
    takes them as they are. The gradient is written out, as softmax regression's is short: no graph is built.

    Args:
        h: [A, N, D] features of A versions of N images; epoch e trains on version e modulo A.
        label: [N] int64, all known.
        num_classes: C.
        lr: [G] learning rates.
        weight_decay: [G] weight decays.
        epochs: passes over the N images.
        batch_size: images in a step.
        seed: of the orders.
    """
    D, G, C = h.shape[-1], len(lr), num_classes
    weight, bias = h.new_zeros(D, G, C, dtype=torch.float32), h.new_zeros(G, C, dtype=torch.float32)
    weight_buffer, bias_buffer = torch.zeros_like(weight), torch.zeros_like(bias)
    rate, decay = (torch.tensor(values, dtype=torch.float32, device=h.device)[:, None] for values in (lr, weight_decay))
    mean, scale = h.mean((0, 1)), (h.var((0, 1), correction=0) + EPSILON).rsqrt()
    total, step = epochs * math.ceil(len(label) / batch_size), 0
    for epoch in range(epochs):
        version, order = h[epoch % len(h)], torch.from_numpy(permutation(seed, epoch, len(label))).to(h.device)
        for rows in order.split(batch_size):
            x = (version[rows] - mean) * scale
            error = _logits(x, weight, bias).softmax(2) - F.one_hot(label[rows], C)[:, None]  # [B, G, C]
            error /= len(rows)
            weight_buffer.mul_(MOMENTUM).add_((x.T @ error.flatten(1)).view_as(weight)).addcmul_(decay, weight)
            bias_buffer.mul_(MOMENTUM).add_(error.sum(0))
            now = rate * 0.5 * (1 + math.cos(math.pi * step / total))
            weight -= now * weight_buffer
            bias -= now * bias_buffer
            step += 1
    weight *= scale[:, None, None]
    return Heads(weight, bias - torch.einsum("d,dgc->gc", mean, weight))


def _logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[B, G, C] of [B, D]."""
    return (x @ weight.flatten(1)).view(len(x), *bias.shape) + bias
