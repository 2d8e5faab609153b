"""Runs side by side as one HTML file that needs nothing else, in the look of the reports."""

import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import callbacks.report
from callbacks.disk import whole
from callbacks.report.charts import Line, legend, line_chart
from callbacks.report.environment import without_paths
from callbacks.report.page import POLICY
from callbacks.report.palette import LINES
from datamodules.errors import UserError
from scripts.look.columns import COLUMNS
from scripts.look.curves import PANELS
from scripts.look.runs import Run, differences, note

_PARTS = Path(callbacks.report.__file__).parent
_STYLE = """
.numbers .word, .numbers tr:first-child .word { text-align: left; white-space: normal; }
.numbers .run, .numbers th.run:first-child { min-width: 0; white-space: nowrap; }
.numbers td.word:last-child { min-width: 190px; }
.thumbs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr)); }
.thumbs svg { display: block; width: 100%; height: auto; }
.thumbs svg { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.thumbs circle { fill-opacity: 0.85; }
.dot { display: inline-block; width: 11px; height: 11px; margin-right: 7px; border-radius: 50%; }
a { color: var(--accent); }
"""
_MAP = re.compile(r"<figcaption>t-SNE</figcaption><svg[^>]*>(.*?)</svg>", re.DOTALL)
_DOT = re.compile(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="[\d.]+" style="fill:(#[0-9a-f]{6})"/>')


def check_out(out: Path) -> None:
    """Refuses a page that could not be written.

    Raises:
        UserError: the file has no folder, or another ending.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out} must end in .html.")
    if not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise UserError(f"--out {out}: there is no folder {out.parent} to write to. Give another place.")


def write_page(runs: Sequence[Run], out: Path) -> None:
    """Writes the page, whole or not at all."""
    with whole(out) as part:
        part.write_text(build_page(runs, out.resolve().parent), encoding="utf-8")


def build_page(runs: Sequence[Run], folder: Path) -> str:
    """The page as HTML.

    Args:
        runs: in the order in which they are shown.
        folder: where the page will lie, for links to the runs' reports.
    """
    sections = {
        "Where they differ": _differences(runs),
        "Curves": _curves(runs),
        "Maps of the features": _maps(runs, folder),
    }
    shown = "".join(f"<section><h2>{head}</h2>{content}</section>" for head, content in sections.items() if content)
    title = f"{len(runs)} run{'' if len(runs) == 1 else 's'} side by side"
    style, script = (_PARTS / "page.css").read_text() + _STYLE, (_PARTS / "page.js").read_text()
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{POLICY}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head><body>"
        f"<header><h1>{title}</h1><p>{escape(note(runs))}</p></header>{_figures(runs, folder)}<main>{shown}</main>"
        f'<div id="tip" hidden></div><script>{script}</script></body></html>'
    )


def _figures(runs: Sequence[Run], folder: Path) -> str:
    """A row for each run: what it came to."""
    heads = [f'<th class="{"" if c.number else "word"}">{escape(c.head)}</th>' for c in COLUMNS.values()]
    rows = []
    for k, run in enumerate(runs):
        cells = [
            f'<td class="{"" if c.number else "word"}">{escape(c.text(run))}</td>'
            for key, c in COLUMNS.items()
            if key != "run"
        ]
        rows.append(f'<th class="run">{_dot(k)}{_linked(run, folder)}</th>{"".join(cells)}')
    return _table([heads[0].replace("word", "run"), *heads[1:]], rows)


def _differences(runs: Sequence[Run]) -> str:
    """A row for each flag that is not the same in all runs."""
    rows = [
        f'<th class="run"><code>{escape(flag)}</code></th>'
        + "".join(f'<td class="word">{escape(without_paths(value, Path()))}</td>' for value in values)
        for flag, values in differences(runs).items()
    ]
    heads = [f'<th class="word">{_dot(k)}{escape(run.name)}</th>' for k, run in enumerate(runs)]
    return _table(["<th></th>", *heads], rows) if rows else ""


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    body = "".join(f"<tr>{row}</tr>" for row in ("".join(heads), *rows))
    return f'<div class="scroll"><table class="numbers">{body}</table></div>'


def _curves(runs: Sequence[Run]) -> str:
    """A chart for each of loss, kNN and probe, with a line for each run that has logged it."""
    figures = []
    for metric, (title, scale) in PANELS.items():
        lines = []
        for k, run in enumerate(runs):
            if metric in run.curves and run.latest(metric) is not None:
                line = Line.of(run.name, run.curves[metric], LINES[k % len(LINES)], scale)
                line.dashed = k // len(LINES) % 2 == 1
                lines.append(line)
        if lines:
            caption = f"<figcaption>{title}<code>{metric}</code></figcaption>"
            figures.append(f"<figure>{caption}{line_chart(lines, width=400, height=230)}{legend(lines)}</figure>")
    return f'<div class="charts small">{"".join(figures)}</div>' if figures else ""


def _maps(runs: Sequence[Run], folder: Path) -> str:
    """The t-SNE map of each run's report."""
    figures = []
    for k, run in enumerate(runs):
        found = _MAP.search(run.report.read_text(encoding="utf-8")) if run.report else None
        dots = _DOT.findall(found[1]) if found else []
        if dots:
            circles = "".join(f'<circle cx="{x}" cy="{y}" r="7" style="fill:{colour}"/>' for x, y, colour in dots)
            caption = f"<figcaption>{_dot(k)}{_linked(run, folder)}</figcaption>"
            figures.append(f'<figure>{caption}<svg viewBox="0 0 640 640" role="img">{circles}</svg></figure>')
    if not figures:
        return ""
    return (
        "<p>t-SNE of validation images, from the runs' reports, which name the classes and show the images. Only which "
        f'images lie close together can be compared.</p><div class="maps thumbs">{"".join(figures)}</div>'
    )


def _dot(k: int) -> str:
    """The colour of run number k."""
    return f'<i class="dot" style="background:{LINES[k % len(LINES)]}"></i>'


def _linked(run: Run, folder: Path) -> str:
    """The run's name, which leads to its report if it has one."""
    if run.report is None:
        return escape(run.name)
    return f'<a href="{quote(os.path.relpath(run.report.resolve(), folder))}">{escape(run.name)}</a>'
