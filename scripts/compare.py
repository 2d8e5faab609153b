"""Several runs side by side: a table in the terminal and, if wanted, a page with their curves and maps.

python scripts/compare.py runs/version_0 runs/version_1
python scripts/compare.py runs/version_* --sort knn --out compare.html

Shows what each run came to, and the flags in which they differ. A run that is still going, or broke, is shown with
what it has logged.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, from anywhere
from scripts.look.columns import COLUMNS, Key, by
from scripts.look.page import check_out, write_page
from scripts.look.runs import Run, differences, note, read_runs
from scripts.parsing import PlainParser, answering_mistakes

WIDE = 240  # columns where the output is a file, which nobody reads in a window


def report(runs: Sequence[Run], width: int) -> RenderableType:
    """What the runs came to, how that was measured, and where their configurations differ.

    Args:
        runs: in the order in which they are shown.
        width: of the terminal, in characters. Where it is too narrow for the verdicts, these stand below the table.
    """
    cells = {column.head: [column.text(run) for run in runs] for column in COLUMNS.values()}
    needed = sum(max(len(text) for text in (head, *texts)) + 2 for head, texts in cells.items())
    verdicts = cells.pop("verdict") if needed > width else []
    figures = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS.values():
        if column.head in cells:
            figures.add_column(column.head, justify="right" if column.number else "left", overflow="fold")
    for row in zip(*cells.values(), strict=True):
        figures.add_row(*(Text(text) for text in row))
    told = [Text.assemble((f"{run.name}: ", "bold"), text) for run, text in zip(runs, verdicts, strict=False)]
    return Group(figures, Text(), *told, Text(note(runs), style="dim"), *_different(runs))


def _different(runs: Sequence[Run]) -> list[RenderableType]:
    """The table of flags in which the runs differ."""
    rows = differences(runs)
    if not rows:
        return []
    flags = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("differs", *(run.name for run in runs)):
        flags.add_column(head, overflow="fold")
    for flag, values in rows.items():
        flags.add_row(Text(flag), *(Text(value) for value in values))
    return [Text(), flags]


def main() -> None:
    parser = PlainParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs")
    parser.add_argument("--sort", type=Key | None, help="column to sort by, the best first (default: as given)")
    parser.add_argument("--out", type=Path | None, help="page (HTML) to write as well")
    with answering_mistakes():
        given = parser.parse_args()
        if given.out:
            check_out(given.out)
        runs = by(read_runs(given.runs), given.sort)
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = WIDE
        console.print(report(runs, console.width))
        if given.out:
            write_page(runs, given.out)
            print(f"written: {given.out}")


if __name__ == "__main__":
    main()
