"""The results of a suite, for the terminal."""

from collections.abc import Sequence
from re import fullmatch

from rich.console import Group
from rich.table import Table
from rich.text import Text

from scripts.evaluating.protocols import ACCURACIES, Row

HEADINGS = {"top1": "top-1 %", "top5": "top-5 %", "mean_per_class": "mean/class %"}
BASELINES = {"pixels_top1": "kNN of the raw pixels", "untrained_top1": "kNN of the untrained network"}
WIDTH = 15  # of a number with its deviation, and of the longest heading


def results(rows: Sequence[Row]) -> Table:
    """One entry a protocol: its numbers, and below them what stands behind them; the baselines before theirs."""
    shown = [name for name in ACCURACIES if any(name in row.accuracies for row in rows)]
    table = Table(show_header=False, show_lines=True)
    table.add_row(_line(Text("Protocol", "bold"), [Text(HEADINGS[name], "bold") for name in shown]))
    for row in rows:
        for name, title in BASELINES.items():
            if name in row.others:
                table.add_row(_line(title, [percent(row.others[name]), *("" for _ in shown[1:])]))
        cells = [percent(row.accuracies.get(name), row.deviations.get(name)) for name in shown]
        table.add_row(Group(_line(row.title, cells), Text(row.protocol, "dim")))
    return table


def _line(title: str | Text, cells: Sequence[str | Text]) -> Table:
    """A title and numbers, in columns of one width: those of all lines stand below each other."""
    line = Table.grid(expand=True)
    line.add_column(ratio=1)
    for _ in cells:
        line.add_column(justify="right", no_wrap=True, width=WIDTH)
    line.add_row(title, *cells)
    return line


def neighbours(rows: Sequence[Row]) -> Table | None:
    """The kNN top-1 of all pairs of k and temperature, for comparison with tables that took others."""
    found = {
        (int(pair[1]), pair[2]): value
        for row in rows
        for name, value in row.others.items()
        if (pair := fullmatch(r"top1_k(\d+)_t(.+)", name))
    }
    if len(found) < 2:
        return None
    ks, temperatures = sorted({k for k, _ in found}), sorted({t for _, t in found}, key=float)
    table = Table(title="kNN top-1 % by number of neighbours and temperature (not to choose from)", title_style="dim")
    table.add_column("T")
    for k in ks:
        table.add_column(f"k {k}", justify="right")
    for t in temperatures:
        table.add_row(t, *(percent(found.get((k, t))) for k in ks))
    return table


def percent(value: float | None, deviation: float | None = None) -> str:
    """For example `93.04 ± 0.21`; nothing for what was not measured."""
    if value is None:
        return ""
    return f"{100 * value:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")
