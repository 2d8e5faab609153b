"""The slow copy of a network: target network (BYOL), key encoder (MoCo), teacher (DINO)."""

import copy
import math
from dataclasses import dataclass

from torch import nn


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy with equal weights that no gradient reaches. Build it before the first forward pass."""
    return copy.deepcopy(module).requires_grad_(False)


@dataclass
class EMAPair:
    """A student and the teacher that follows it: teacher <- m * teacher + (1 - m) * student, once per optimiser step.

    Attributes:
        student: module that learns.
        teacher: its `frozen_copy`.
        momentum: m at the start of training, in [0, 1].
        final_momentum: m at the end, reached along half a cosine; equal to `momentum` for a constant.
    """

    student: nn.Module
    teacher: nn.Module
    momentum: float
    final_momentum: float

    def momentum_at(self, progress: float) -> float:
        """The momentum m at a point of training.

        BYOL's schedule (Grill et al., 2020, arXiv:2006.07733, section 3.3) with any end in place of 1.

        Args:
            progress: from 0 at the start to 1 at the end.
        """
        return self.final_momentum - (self.final_momentum - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
