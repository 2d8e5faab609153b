"""What a method declares, held against what it has: none of its parameters, teachers or queues is forgotten."""

from collections import Counter
from collections.abc import Collection
from typing import Any

from torch import nn

from datamodules.errors import UserError
from methods.modules import EMAPair

LISTED = 3  # names in a sentence


def check_groups(module: nn.Module, groups: list[dict[str, Any]]) -> None:
    """Whether the optimiser gets each trainable parameter, and once.

    Args:
        module: the method.
        groups: torch's, with lists of parameters.

    Raises:
        UserError: naming those that are in no group, or in several.
    """
    times = Counter(id(parameter) for group in groups for parameter in group["params"])
    trainable = {name: times[id(parameter)] for name, parameter in module.named_parameters() if parameter.requires_grad}
    if missing := [name for name, count in trainable.items() if not count]:
        raise UserError(
            f"{type(module).__name__} would never train {_listed(missing)}: param_groups() has to put every parameter "
            "into a group, or freeze those that are to stay as they are with requires_grad_(False)."
        )
    if doubled := [name for name, count in trainable.items() if count > 1]:
        raise UserError(
            f"{type(module).__name__} would train {_listed(doubled)} several times a step: param_groups() has to put "
            "every parameter into one group."
        )


def check_teachers(module: nn.Module, pairs: list[EMAPair]) -> None:
    """Whether every copy made by `Teacher` or `frozen_copy` follows something.

    Raises:
        UserError: naming one that is the teacher of no pair.
    """
    followed = {id(parameter) for pair in pairs for parameter in pair.teacher.parameters()}
    for name, part in module.named_modules():
        frozen = [p for p in part.parameters() if not p.requires_grad] if hasattr(part, "is_frozen_copy") else []
        if any(id(parameter) not in followed for parameter in frozen):
            raise UserError(
                f"{type(module).__name__}.{name} is a teacher that would never move: ema_pairs() has to list it, with "
                "a momentum of 1 if it is to stay as it is."
            )


def check_queues(method: type, queues: list[str], enqueued: Collection[str]) -> None:
    """Whether a step says of every queue what goes into it.

    Args:
        method: whose step it was.
        queues: names of its queues.
        enqueued: names in its `StepOutput.enqueue`.

    Raises:
        UserError: naming queues that it leaves out, or names that are none of them.
    """
    if unknown := [name for name in enqueued if name not in queues]:
        raise UserError(
            f"{method.__name__} enqueues for {_listed(unknown)}, but its queues are {_listed(queues) or 'none'}: "
            "StepOutput.enqueue goes by the names of the queues' attributes."
        )
    if missing := [name for name in queues if name not in enqueued]:
        raise UserError(
            f"{method.__name__} puts nothing into {_listed(missing)}: StepOutput.enqueue has to name every queue, with "
            "no rows (keys[:0]) in a step that is not to fill it."
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
