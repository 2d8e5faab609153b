"""The slow copy of a network: target network (BYOL), key encoder (MoCo), teacher (DINO)."""

import copy
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from datamodules.errors import UserError


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy with equal weights that no gradient reaches, to be listed in `ema_pairs`.

    Build it before the first forward pass.
    """
    copied: Any = copy.deepcopy(module).requires_grad_(False)
    copied.is_frozen_copy = True  # by which a run sees one that no pair moves
    return copied


class Teacher(nn.Module):
    """The slow copies of a backbone and of the head behind it."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = frozen_copy(backbone)
        self.projector = frozen_copy(projector)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, d]."""
        return self.projector(self.backbone(images))


@dataclass
class EMAPair:
    """Students and the teacher that follows them: teacher <- m * teacher + (1 - m) * student, per optimiser step.

    Attributes:
        student: modules that learn; their parameters in this order are those of the teacher.
        teacher: `frozen_copy` of them.
        momentum: m at the start of training, in [0, 1].
        final_momentum: m at the end, reached along half a cosine; equal to `momentum` for a constant.
        before_forward: the authors move the teacher at the start of a step, as MoCo v3 does, and not at its end, as
            BYOL does. The sequence of weights is the same, but m is then that of the following step.
    """

    student: tuple[nn.Module, ...]
    teacher: nn.Module
    momentum: float
    final_momentum: float
    before_forward: bool = False

    def __post_init__(self) -> None:
        for name in ("momentum", "final_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"A teacher's {name} is {getattr(self, name)}, and has to be from 0 to 1: set "
                    "--model.teacher_momentum, or the argument that a method of your own hands its EMAPair."
                )

    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The teacher's parameters and, in the same order, those that they follow."""
        return list(self.teacher.parameters()), [p for module in self.student for p in module.parameters()]

    def momentum_at(self, progress: float) -> float:
        """The momentum m at a point of training.

        BYOL's schedule (Grill et al., 2020, arXiv:2006.07733, section 3.3) with any end in place of 1.

        Args:
            progress: from 0 at the start to 1 at the end.
        """
        return self.final_momentum - (self.final_momentum - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
