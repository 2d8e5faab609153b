"""What a step of a method says."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class StepOutput:
    """What one step of a method gives to the rest of the house.

    Attributes:
        loss: scalar, with gradient.
        features: [B, D] backbone features of the first view, for the watchers.
        positives: [B, D] backbone features of another view of the same images, where there is one (alignment needs it).
        projections: [B, d] of the first view, in the space of the loss, where a collapse shows first.
        enqueue: name of each queue of the method -> keys [B, ...] to push into it after this step, [0, ...] for none.
        logs: further scalars, logged as train/<name>.
    """

    loss: Tensor
    features: Tensor
    positives: Tensor | None = None
    projections: Tensor | None = None
    enqueue: dict[str, Tensor] = field(default_factory=dict)
    logs: dict[str, Tensor] = field(default_factory=dict)
