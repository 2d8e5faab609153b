"""Learning-rate schedules: the factor of the peak rate as a pure function of the optimiser steps done.

Pure, so that a resumed run needs no history to be at the right rate; functions of the top level, to be bound by
`functools.partial`, so that a schedule can be pickled.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from datamodules.errors import UserError

Schedule = Callable[[int], float]


def in_steps(epochs: float, steps_per_epoch: float) -> int:
    """Epochs in optimiser steps, rounded.

    Args:
        epochs: how many, may be a fraction.
        steps_per_epoch: optimiser steps per epoch; infinite for data of unknown length, of which only 0 epochs have a
            length.
    """
    if epochs and math.isinf(steps_per_epoch):
        raise UserError(
            "optim: warmup_epochs, milestones and lr_interval epoch need data of known length. Set "
            "trainer.limit_train_batches to the batches of an epoch, or warmup_epochs to 0 and leave out the others."
        )
    return round(epochs * steps_per_epoch) if epochs else 0


def constant(step: int) -> float:
    """The peak rate throughout."""
    return 1.0


def cosine(step: int, start: int, end: float, final_ratio: float = 0.0) -> float:
    """Half a cosine from 1 to `final_ratio`.

    Loshchilov, Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, eq. (5) without restarts.

    Args:
        step: optimiser steps done so far.
        start: step up to which the factor is 1.
        end: step from which the factor is `final_ratio`; infinite for a run without an end, whose rate stays.
        final_ratio: factor at the end, in [0, 1].
    """
    if step <= start or math.isinf(end):
        return 1.0
    progress = min(1.0, (step - start) / max(1.0, end - start))
    return final_ratio + (1 - final_ratio) * (1 + math.cos(math.pi * progress)) / 2


def multi_step(step: int, milestones: Sequence[int], factor: float) -> float:
    """`factor` to the power of the milestones that have been reached.

    Args:
        step: optimiser steps done so far.
        milestones: increasing, in optimiser steps; the step that equals one has the new rate already.
        factor: what the rate is multiplied by at each of them.
    """
    return factor ** bisect.bisect_right(milestones, step)


def after_warmup(step: int, schedule: Schedule, warmup_steps: int, start_ratio: float = 0.0) -> float:
    """Linear from `start_ratio` at step 0 to the peak at step `warmup_steps`, then `schedule`.

    Goyal et al., "Accurate, Large Minibatch SGD", 2017, arXiv:1706.02677, section 2.2; with `start_ratio` 0 the first
    step changes no weight, as in SimCLR's, BYOL's and MoCo v3's code.

    Args:
        step: optimiser steps done so far.
        schedule: what follows; its step 0 is the run's, not the warm-up's end.
        warmup_steps: length of the warm-up in optimiser steps.
        start_ratio: factor at step 0, in [0, 1].
    """
    if step >= warmup_steps:
        return schedule(step)
    return start_ratio + (1 - start_ratio) * step / warmup_steps


def once_an_epoch(step: int, schedule: Schedule, steps_per_epoch: int) -> float:
    """`schedule` at the first step of the epoch, for all of its steps.

    Args:
        step: optimiser steps done so far.
        schedule: a function of the optimiser step.
        steps_per_epoch: optimiser steps per epoch.
    """
    return schedule(step - step % steps_per_epoch)


class RateAndDecay(LambdaLR):
    """LambdaLR that moves the weight decay too, along half a cosine; groups without decay stay without.

    Args:
        optimizer: its groups' weight decay is the start.
        curves: a schedule of the learning rate for each group.
        final_ratio: the weight decay ends at this multiple of its start.
        total_steps: length of training in optimiser steps; infinite keeps the decay.
    """

    def __init__(self, optimizer: Optimizer, curves: list[Schedule], final_ratio: float, total_steps: float) -> None:
        self.final_ratio = final_ratio
        self.total_steps = total_steps
        self.initial_decays = [group["weight_decay"] for group in optimizer.param_groups]
        super().__init__(optimizer, curves)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, without the run's length: a resumed run may be longer."""
        return {k: v for k, v in super().state_dict().items() if k not in ("final_ratio", "total_steps")}

    def step(self, epoch: int | None = None) -> None:
        """Sets rate and decay of the next optimiser step."""
        super().step(epoch)
        factor = cosine(self.last_epoch, 0, self.total_steps, self.final_ratio)
        for group, initial in zip(self.optimizer.param_groups, self.initial_decays, strict=True):
            group["weight_decay"] = initial * factor
