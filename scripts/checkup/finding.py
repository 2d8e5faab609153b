"""What a rule says when it does not like a run."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from scripts.checkup.facts import Facts

Level = Literal["ok", "warning", "problem"]


class Finding(NamedTuple):
    """Something that the user should know before the run.

    Attributes:
        level: `problem` where the run would fail or be wasted, `warning` where it may be worse than it could be.
        found: what is the matter.
        advice: what to do.
    """

    level: Level
    found: str
    advice: str


Rule = Callable[[Facts], Finding | None]


def warning(found: str, advice: str) -> Finding:
    """A finding that lets the run pass."""
    return Finding("warning", found, advice)


def problem(found: str, advice: str) -> Finding:
    """A finding that should stop the run."""
    return Finding("problem", found, advice)
