"""What is compared of runs: a column for each figure, in the terminal and on the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from callbacks.pace import clock
from scripts.look.runs import KNN, LOSS, PROBE, UNSET, Run

Key = Literal["run", "method", "backbone", "data", "epochs", "knn", "probe", "loss", "images/s", "time", "verdict"]
Value = str | float | None


@dataclass(frozen=True)
class Column:
    """A figure of every run.

    Attributes:
        head: its name in the table.
        value: takes it from a run; None where it is not known.
        shown: puts it into words.
        number: whether cells are aligned by their end.
        best_first: whether sorting begins with the largest.
    """

    head: str
    value: Callable[[Run], Value]
    shown: Callable[..., str] = str
    number: bool = False
    best_first: bool = False

    def text(self, run: Run) -> str:
        """The run's cell."""
        value = self.value(run)
        return UNSET if value is None else self.shown(value)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


COLUMNS: dict[Key, Column] = {
    "run": Column("run", lambda run: run.name),
    "method": Column("method", lambda run: run.config.get("model")),
    "backbone": Column("backbone", lambda run: run.config.get("model.backbone.name")),
    "data": Column("data", lambda run: run.config.get("data")),
    "epochs": Column("epochs", lambda run: run.epochs, lambda n: f"{n:,}", True, True),
    "knn": Column("kNN", lambda run: run.latest(KNN), _percent, True, True),
    "probe": Column("probe", lambda run: run.latest(PROBE), _percent, True, True),
    "loss": Column("loss", lambda run: run.latest(LOSS), lambda loss: f"{loss:.4g}", True),
    "images/s": Column(
        "images/s", lambda run: run.summary and run.summary.images_per_second, lambda n: f"{n:,.0f}", True, True
    ),
    "time": Column("time", lambda run: run.summary and run.summary.wall_seconds, clock, True),
    "verdict": Column("verdict", lambda run: run.verdict),
}
assert tuple(COLUMNS) == get_args(Key)


def by(runs: Sequence[Run], key: Key | None) -> list[Run]:
    """The runs in the order of a column, what is not known last; as they were given without one."""
    if key is None:
        return list(runs)
    column = COLUMNS[key]
    values = [(column.value(run), run) for run in runs]
    known = [(value, run) for value, run in values if value is not None]
    ordered = sorted(known, key=lambda pair: pair[0], reverse=column.best_first)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return [run for _, run in ordered] + [run for value, run in values if value is None]
