"""Optimisers by name."""

import difflib
import importlib
import inspect
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer

from datamodules.errors import UserError
from methods.lars import LARS

OPTIMIZERS: dict[str, type[Optimizer]] = {"lars": LARS, "sgd": SGD, "adam": Adam, "adamw": AdamW}


def optimizer_class(name: str, arguments: dict[str, Any]) -> type[Optimizer]:
    """The optimiser of a name or class path, after checking that it takes the arguments.

    Raises:
        UserError: it is unknown, or does not take one of them.
    """
    found = OPTIMIZERS.get(name.lower()) or _import(name)
    accepted = set(inspect.signature(found).parameters) - {"params"}
    for argument in arguments:
        if argument not in accepted:
            near = difflib.get_close_matches(argument, accepted, n=1)
            raise UserError(
                f"{found.__name__} takes no {argument!r}{f', did you mean {near[0]!r}?' if near else '.'} It takes "
                f"{', '.join(sorted(accepted))}: change --model.optim.options."
            )
    return found


def _import(path: str) -> type[Optimizer]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        near = difflib.get_close_matches(path.lower(), OPTIMIZERS, n=1)
        raise UserError(
            f"optim.optimizer {path!r} is unknown{f', did you mean {near[0]!r}?' if near else '.'} Give one of "
            f"{', '.join(OPTIMIZERS)} or the class path of a torch optimiser."
        )
    return found
