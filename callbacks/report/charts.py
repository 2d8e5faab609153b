"""Line charts as inline SVG. They are complete without scripts; `page.js` adds the values under the pointer."""

import json
import math
from dataclasses import dataclass
from html import escape

from callbacks.history import Curve

_POINTS = 600  # drawn per curve: more than a chart has pixels to tell apart
_DOTS = 40  # points up to which each has a dot: a curve of one point is otherwise invisible
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 42  # margins, in the drawing's units


@dataclass
class Line:
    """One line of a chart.

    Attributes:
        label: what the legend and the pointer call it.
        step: step of each point, from 0.
        epoch: epoch of each point, from 0; empty for a level that is not of one time.
        value: value of each point, in the chart's unit; not finite ones leave a gap.
        colour: CSS colour.
        dashed: for what training is compared with.
    """

    label: str
    step: list[int]
    epoch: list[float]
    value: list[float]
    colour: str
    dashed: bool = False

    @classmethod
    def of(cls, label: str, curve: Curve, colour: str, scale: float = 1.0) -> "Line":
        """The line of a logged curve, thinned out evenly to what can be seen; the newest point stays."""
        step, epoch, value = curve.points()
        stride = max(1, math.ceil(len(step) / _POINTS))
        kept = range(len(step) - 1, -1, -stride)[::-1]
        columns = [step[i] for i in kept], [epoch[i] for i in kept], [scale * value[i] for i in kept]
        return cls(label, *columns, colour)


def line_chart(lines: list[Line], unit: str = "", width: int = 520, height: int = 250) -> str:
    """A chart with axes and ticks over optimiser steps.

    Args:
        lines: at least one, with at least one finite value among them.
        unit: what follows the values, for example " %".
        width: of the drawing, in CSS pixels at full size; it shrinks with the page.
        height: likewise.
    """
    finite = [v for line in lines for v in line.value if math.isfinite(v)]
    last = max(1, *(s for line in lines for s in line.step))  # all charts begin at 0, so that they can be compared
    y_ticks = nice_ticks(min(finite), max(finite))
    right, floor = width - _RIGHT, height - _BOTTOM

    def x(step: float) -> float:
        return _LEFT + step / last * (right - _LEFT)

    def y(value: float) -> float:
        return floor - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (floor - _TOP)

    marks = []
    for tick, text in zip(y_ticks, tick_labels(y_ticks), strict=True):
        marks.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        marks.append(_text("tick", _LEFT - 8, y(tick) + 4, f"{text}{unit}", "end"))
    x_ticks = [tick for tick in nice_ticks(0, last, 6, whole=True) if tick <= last]
    for tick, text in zip(x_ticks, tick_labels(x_ticks), strict=True):
        marks.append(_text("tick", x(tick), floor + 18, text))
    marks.append(_text("axis", (_LEFT + right) / 2, height - 6, "optimiser step"))
    for line in lines:
        points = [(x(s), y(v)) if math.isfinite(v) else None for s, v in zip(line.step, line.value, strict=True)]
        marks.append(_stroke(points, line))
    marks.append(f'<line class="cursor" y1="{_TOP}" y2="{floor}" visibility="hidden"/>')
    scale = {"last": last, "left": _LEFT, "right": right, "width": width, "unit": unit}
    svg = f'<svg viewBox="0 0 {width} {height}" role="img" class="chart">{"".join(marks)}</svg>'
    return f'<div class="plot" data-plot="{escape(_hover_data(lines, scale))}">{svg}</div>'


def legend(lines: list[Line]) -> str:
    """The lines' names beside a stroke of each."""
    entries = []
    for line in lines:
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        stroke = f'<line x1="0" x2="22" y1="5" y2="5" stroke-width="2.5"{dash} style="stroke:{line.colour}"/>'
        entries.append(f'<span><svg width="22" height="10">{stroke}</svg>{escape(line.label)}</span>')
    return f'<div class="legend">{"".join(entries)}</div>'


def nice_ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """About `count` round, evenly spaced numbers, the first at most `low` and the last at least `high`.

    Args:
        low: smallest value to show.
        high: largest value to show.
        count: how many gaps are aimed at.
        whole: only whole numbers.
    """
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        margin = 0.1 * abs(high) or 0.5
        low, high = low - margin, high + margin
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    gap = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    if whole:
        gap = max(1.0, float(math.ceil(gap)))
    first, last = math.floor(low / gap + 1e-9), math.ceil(high / gap - 1e-9)
    return [k * gap for k in range(first, last + 1)]


def tick_labels(ticks: list[float]) -> list[str]:
    """The ticks as text, all with the same number of decimals; thousands as k, millions as M."""
    largest = max(abs(tick) for tick in ticks)
    if 0 < largest < 1e-3:
        return [f"{tick:.1e}".replace(".0e", "e").replace("e-0", "e-") if tick else "0" for tick in ticks]
    unit, suffix = (1e6, "M") if largest >= 1e6 else (1e3, "k") if largest >= 1e4 else (1, "")
    shown = [tick / unit for tick in ticks]
    decimals = next((d for d in range(6) if all(abs(round(v, d) - v) < 1e-6 * largest / unit for v in shown)), 6)
    return [f"{value:.{decimals}f}{suffix if value else ''}" for value in shown]


def _text(kind: str, x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _stroke(points: list[tuple[float, float] | None], line: Line) -> str:
    """A stroke through the points, interrupted where one is missing; with a dot on each if they are few."""
    parts, pen = [], "M"
    for point in points:
        if point is not None:
            parts.append(f"{pen}{point[0]:.1f},{point[1]:.1f}")
        pen = "L" if point is not None else "M"
    dash = ' stroke-dasharray="6 5"' if line.dashed else ""
    path = f'<path class="line" d="{"".join(parts)}"{dash} style="stroke:{line.colour}"/>'
    if len(points) > _DOTS or line.dashed:
        return path
    dots = "".join(
        f'<circle cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="2.4"/>' for point in points if point is not None
    )
    return f'{path}<g class="dots" style="fill:{line.colour}">{dots}</g>'


def _hover_data(lines: list[Line], scale: dict[str, float | str]) -> str:
    """What `page.js` needs to say which values are under the pointer, as JSON."""
    shown = [
        {
            "label": line.label,
            "colour": line.colour,
            "step": line.step,
            "epoch": line.epoch,
            "value": [float(f"{v:.5g}") if math.isfinite(v) else None for v in line.value],
        }
        for line in lines
    ]
    return json.dumps(scale | {"lines": shown}, separators=(",", ":"))
