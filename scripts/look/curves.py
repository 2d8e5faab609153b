"""Loss and accuracies of several runs in one picture."""

from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from callbacks.report.palette import LINES
from datamodules.errors import UserError
from scripts.look.figures import BODY, SMALL, Sheet, text_width
from scripts.look.runs import KNN, LOSS, PROBE, Run, note

Over = Literal["epochs", "steps"]
PANELS = {LOSS: ("Training loss", 1.0), KNN: ("kNN top-1, %", 100.0), PROBE: ("Linear probe top-1, %", 100.0)}
_STROKES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))  # of the first six runs, the next six, and so on
_DOTS = 40  # points up to which each has a dot
_WIDTH, _HEIGHT, _SIDE, _FLOOR = 3.3, 2.6, 0.5, 0.55  # inches of a panel, and beside and below it


def draw(runs: Sequence[Run], over: Over) -> Figure:
    """A panel for each of loss, kNN and probe that any of the runs has logged.

    Raises:
        UserError: none of them has.
    """
    panels = [metric for metric in PANELS if any(metric in run.curves for run in runs)]
    if not panels:
        raise UserError(
            f"None of these runs has a metrics.csv with one of {', '.join(PANELS)}: a run writes it where Lightning's "
            "CSVLogger is among its loggers."
        )
    names = [run.name if any(m in run.curves for m in panels) else f"{run.name} (nothing yet)" for run in runs]
    width = len(panels) * (_WIDTH + _SIDE)
    columns = max(1, int(width / (0.75 + max(text_width(name, BODY) for name in names))))
    height = 0.3 + _HEIGHT + _FLOOR
    sheet = Sheet(width, height + 0.2 * -(-len(runs) // columns), _title(runs), note(runs))
    end = max(_along(run, metric, over)[-1] for run in runs for metric in panels if metric in run.curves)
    for i, metric in enumerate(panels):
        axes = sheet.axes(i * (_WIDTH + _SIDE) + _SIDE, 0.3, _WIDTH, _HEIGHT)
        for k, run in enumerate(runs):
            if metric in run.curves:
                x, y = _along(run, metric, over), [PANELS[metric][1] * v for v in run.curves[metric].points()[2]]
                axes.plot(x, y, marker="o" if len(x) <= _DOTS else "", markersize=3, **_look(k))
        _dress(axes, PANELS[metric][0], over, end)
    key = sheet.axes(0, height, width, 0.2)
    key.set_axis_off()
    strokes = [Line2D([], [], **_look(k)) for k in range(len(runs))]
    place: Any = {"loc": "upper left", "bbox_to_anchor": (0, 1), "borderaxespad": 0, "borderpad": 0}
    key.legend(strokes, names, ncols=columns, frameon=False, fontsize=BODY, handlelength=2.6, **place)
    return sheet.figure


def _title(runs: Sequence[Run]) -> str:
    told = {(run.config.get("model"), run.config.get("data")) for run in runs}
    method, data = told.pop() if len(told) == 1 else (None, None)
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}" + (f" of {method} on {data}" if method and data else "")


def _along(run: Run, metric: str, over: Over) -> list[float]:
    """Where the points of a curve lie: epochs or steps that had gone by."""
    unit = run.steps_per_epoch if over == "epochs" else 1
    return [(step + 1) / unit for step in run.curves[metric].points()[0]]


def _look(k: int) -> dict[str, Any]:
    """Colour and stroke of run number k."""
    stroke = _STROKES[k // len(LINES) % len(_STROKES)]
    return {"color": LINES[k % len(LINES)], "linestyle": stroke, "linewidth": 1.6}


def _dress(axes: Axes, title: str, over: Over, end: float) -> None:
    axes.set_title(title, size=BODY + 1, weight="bold", loc="left")
    axes.set_xlabel("epoch" if over == "epochs" else "optimiser step", size=SMALL)
    axes.set_xlim(0, 1.03 * end)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 10_000 else f"{x:g}"))
    axes.tick_params(length=0, labelsize=SMALL)
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
