"""How all pictures of `visualize.py` look and are written, in the report's colours."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle

from datamodules.errors import UserError

TEXT, SOFT, GRID, GOOD, BAD = "#1d2126", "#666d76", "#e3e5e8", "#009e73", "#d0342c"  # as in the report's page.css
FORMATS = (".png", ".pdf", ".svg")
TITLE, BODY, SMALL = 12.0, 8.5, 8.0  # points
_FONT = "DejaVu Sans"  # comes with matplotlib
_MARGIN, _LINE = 0.3, 0.18  # inches
_GAP, _CAPTION = 0.12, 0.15  # inches between pictures, and of a line below them
_NAME, _HEAD = 1.4, 0.6  # inches: the most for a row's name, the least for a column
_WIDTH, _CELL = 9.0, (1.0, 1.5)  # inches: of a sheet at best; least and most of its largest pictures
_BOLD = 1.15  # times the width of usual letters
_DPI = 150


def style() -> AbstractContextManager[None]:
    """The context in which figures are drawn and written."""
    # Names of runs and classes are no formulas, whatever signs are in them.
    return matplotlib.rc_context(
        {
            "font.family": _FONT,
            "font.size": BODY,
            "text.parse_math": False,
            "image.composite_image": False,  # the pictures of a PDF or SVG can be taken out one by one
            "text.color": TEXT,
            "axes.labelcolor": SOFT,
            "axes.edgecolor": GRID,
            "xtick.color": SOFT,
            "ytick.color": SOFT,
            "grid.color": GRID,
        }
    )


def check_out(out: Path) -> None:
    """Refuses before the work what could not be written after it.

    Raises:
        UserError: the file has no folder, or is of a kind that is not written here.
    """
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {out} must end in one of {', '.join(FORMATS)}.")
    if not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise UserError(f"--out {out}: there is no folder {out.parent} to write to. Give another place.")


def save(figure: Figure, out: Path) -> None:
    """Writes a figure in the format that the file's name says."""
    figure.savefig(out, dpi=_DPI, facecolor="white")
    print(f"written: {out}")


class Sheet:
    """A figure with a title and a note, and below them room that is divided in inches from its top left corner.

    Attributes:
        figure: what is drawn on.
        width: of the room, in inches.
    """

    def __init__(self, width: float, height: float, title: str, note: str) -> None:
        """
        Args:
            width: of the room, in inches; the figure has a margin around it.
            height: of the room, in inches.
            title: what is shown, in a line.
            note: how it was made, in a sentence or two; broken into lines.
        """
        lines = _broken(note, width)
        self.width = width
        self._top = _MARGIN + 0.3 + _LINE * len(lines) + 0.12
        self.figure = Figure(figsize=(width + 2 * _MARGIN, self._top + height + _MARGIN))
        self._text(shortened(title, width / _BOLD, TITLE), _MARGIN, size=TITLE, weight="bold", color=TEXT)
        for i, line in enumerate(lines):
            self._text(line, _MARGIN + 0.3 + _LINE * i, size=BODY, color=SOFT)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at a place of the room, in inches."""
        W, H = self.figure.get_size_inches()
        bottom = H - self._top - top - height
        return self.figure.add_axes(((left + _MARGIN) / W, bottom / H, width / W, height / H))

    def _text(self, text: str, top: float, **style: object) -> None:
        W, H = self.figure.get_size_inches()
        self.figure.text(_MARGIN / W, 1 - top / H, text, va="top", **style)  # pyright: ignore[reportArgumentType]


@dataclass
class Cell:
    """A picture of a sheet.

    Attributes:
        image: [h, w] or [h, w, 3] uint8.
        caption: lines below it.
        kind: of the right class, of another, or neither.
    """

    image: np.ndarray
    caption: str = ""
    kind: Literal["", "same", "other"] = ""


def picture_sheet(
    rows: Sequence[Sequence[Cell | None]],
    title: str,
    note: str,
    heads: Sequence[str] = (),
    names: Sequence[str] = (),
    apart: bool = False,
) -> Figure:
    """Pictures in rows and columns, all enlarged by one factor, so that sizes compare.

    Args:
        rows: of pictures; None leaves a place empty.
        title: see `Sheet`.
        note: see `Sheet`.
        heads: what stands above each column, if anything.
        names: what stands left of each row, if anything.
        apart: a line parts the first column from the others.
    """
    left = min(_NAME, max((text_width(name, SMALL) for name in names), default=0.0)) + (_GAP if names else 0.0)
    lines = max(cell.caption.count("\n") + 1 if cell and cell.caption else 0 for row in rows for cell in row)
    columns = list(zip_longest(*rows))
    cell_side = min(max(_WIDTH / len(columns) - _GAP, _CELL[0]), _CELL[1])
    zoom = cell_side / max(max(cell.image.shape[:2]) for row in rows for cell in row if cell)
    widths = [max(_HEAD, zoom * max(cell.image.shape[1] for cell in column if cell)) for column in columns]
    lefts = [left + sum(widths[:j]) + j * _GAP for j in range(len(columns))]
    first, step = 0.25 if any(heads) else 0.0, cell_side + _GAP + 0.02 + _CAPTION * lines
    width, height = max(lefts[-1] + widths[-1], 5.0), first + len(rows) * step - _GAP
    sheet = Sheet(width, height, title, note)
    axes = sheet.axes(0, 0, width, height)
    for j, head in enumerate(heads):
        text = shortened(head, widths[j] + _GAP, SMALL)
        axes.text(lefts[j] + widths[j] / 2, first - 0.08, text, ha="center", size=SMALL, color=SOFT)
    for i, row in enumerate(rows):
        top = first + i * step
        if names:
            axes.text(0, top + cell_side / 2, shortened(names[i], _NAME, SMALL), va="center", size=SMALL, color=SOFT)
        for j, cell in enumerate(row):
            if cell:
                _place(axes, cell, lefts[j], top, widths[j], cell_side, zoom)
    if apart and len(columns) > 1:
        x = lefts[1] - _GAP / 2
        axes.plot((x, x), (first, height), color=GRID, linewidth=1)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return sheet.figure


def _place(axes: Axes, cell: Cell, left: float, top: float, room: float, cell_side: float, zoom: float) -> None:
    """Draws a picture, in the middle of its place [cell_side, room], with its frame and caption."""
    height, width = (side * zoom for side in cell.image.shape[:2])
    x, y = left + (room - width) / 2, top + (cell_side - height) / 2
    # Enlarged pixels stay pixels; a picture that is shrunk is averaged.
    extent = (x, x + width, y + height, y)
    axes.imshow(cell.image, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="auto", aspect="auto")
    other = cell.kind == "other"
    if cell.kind:
        line = {"edgecolor": BAD if other else GOOD, "linewidth": 2.2, "linestyle": (0, (2.5, 1.5)) if other else "-"}
        axes.add_patch(Rectangle((x, y), width, height, fill=False, clip_on=False, **line))
    for k, line in enumerate(cell.caption.split("\n") if cell.caption else ()):
        place, text = (left + room / 2, top + cell_side + _CAPTION * (k + 1)), shortened(line, room + _GAP, SMALL)
        axes.text(*place, text, ha="center", size=SMALL, color=SOFT if k else BAD if other else TEXT)


def text_width(text: str, size: float) -> float:
    """Inches that a text takes, of this size in points."""
    return sum(_advance(character) for character in text) * size / 72


@cache
def _advance(character: str) -> float:
    """How far a character moves the next one, as a share of the size."""
    font = get_font(findfont(_FONT))
    font.set_size(100, 72)
    return font.load_char(ord(character)).linearHoriAdvance / 65536 / 100


def shortened(text: str, room: float, size: float) -> str:
    """The text, cut where it would leave the room, in inches."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(f"{text}…", size) > room:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _broken(text: str, room: float) -> list[str]:
    """The text in lines that the room, in inches, can hold."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, BODY) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
