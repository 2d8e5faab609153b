"""Line charts as inline SVG. They are complete without scripts; `page.js` adds the values under the pointer."""

import json
import math
from dataclasses import dataclass
from html import escape

from callbacks.history import Curve

_POINTS = 600  # drawn per curve: more than a chart has pixels to tell apart
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
    def of(cls, label: str, curve: Curve, colour: str, scale: float = 1.0, dashed: bool = False) -> "Line":
        """The line of a logged curve, thinned out evenly to what can be seen; the newest point stays."""
        step, epoch, value = curve.points()
        stride = max(1, math.ceil(len(step) / _POINTS))
        kept = range(len(step) - 1, -1, -stride)[::-1]
        columns = [step[i] for i in kept], [epoch[i] for i in kept], [scale * value[i] for i in kept]
        return cls(label, *columns, colour, dashed)


def line_chart(lines: list[Line], unit: str = "", width: int = 520, height: int = 250) -> str:
    """A chart with axes, ticks and a legend over optimiser steps.

    Args:
        lines: at least one, with at least one finite value among them.
        unit: what follows the values, for example " %".
        width: of the drawing, in CSS pixels at full size; it shrinks with the page.
        height: likewise.
    """
    finite = [v for line in lines for v in line.value if math.isfinite(v)]
    steps = [s for line in lines for s in line.step]
    y_ticks = nice_ticks(min(finite), max(finite))
    x_ticks = [t for t in nice_ticks(min(steps), max(steps), 6, whole=True) if min(steps) <= t <= max(steps)]
    x0, x1, y0, y1 = min(steps), max(max(steps), min(steps) + 1), y_ticks[0], y_ticks[-1]

    def x(step: float) -> float:
        return _LEFT + (step - x0) / (x1 - x0) * (width - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return height - _BOTTOM - (value - y0) / (y1 - y0) * (height - _TOP - _BOTTOM)

    marks = [f'<svg viewBox="0 0 {width} {height}" role="img" class="chart">']
    for tick, text in zip(y_ticks, tick_labels(y_ticks), strict=True):
        marks.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        marks.append(f'<text class="tick" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{text}{unit}</text>')
    for tick, text in zip(x_ticks, tick_labels(x_ticks), strict=True):
        marks.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{height - _BOTTOM + 18}" text-anchor="middle">{text}</text>'
        )
    middle = (_LEFT + width - _RIGHT) / 2
    marks.append(f'<text class="axis" x="{middle}" y="{height - 6}" text-anchor="middle">optimiser step</text>')
    for line in lines:
        points = [(x(s), y(v), v) for s, v in zip(line.step, line.value, strict=True)]
        marks.append(_path([(a, b) if math.isfinite(v) else None for a, b, v in points], line))
        if len(points) <= 40 and not line.dashed:
            dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.4"/>' for a, b, v in points if math.isfinite(v))
            marks.append(f'<g class="dots" style="fill:{line.colour}">{dots}</g>')
    marks.append(f'<line class="cursor" y1="{_TOP}" y2="{height - _BOTTOM}" visibility="hidden"/></svg>')
    scale = {"from": x0, "to": x1, "left": _LEFT, "right": width - _RIGHT, "width": width, "unit": unit}
    return f'<div class="plot" data-plot="{escape(_hover_data(lines, scale))}">{"".join(marks)}</div>'


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


def _path(points: list[tuple[float, float] | None], line: Line) -> str:
    """A stroke through the points, interrupted where one is missing."""
    parts, pen = [], "M"
    for point in points:
        if point is not None:
            parts.append(f"{pen}{point[0]:.1f},{point[1]:.1f}")
        pen = "L" if point is not None else "M"
    dash = ' stroke-dasharray="6 5"' if line.dashed else ""
    return f'<path class="line" d="{"".join(parts)}"{dash} style="stroke:{line.colour}"/>'


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
