"""The sections about figures: headline tiles and curves."""

import math
from html import escape

from callbacks.history import Curve
from callbacks.pace import clock
from callbacks.report.charts import Line, legend, line_chart
from callbacks.report.palette import BASELINES, LINES
from callbacks.report.record import Record, UnavailableError

_TITLES = {
    "train/loss": "Training loss",
    "train/lr": "Learning rate",
    "reconstruction/val_mse": "Error of held-out reconstructions, on what was hidden",
    "representation/feature_std": "Standard deviation of the features",
    "representation/effective_rank": "Effective rank: directions in use",
    "representation/projection_std": "Standard deviation of the projections",
    "representation/projection_directions": "Directions of the projections in use",
    "representation/alignment": "Alignment: distance of two views",
    "representation/uniformity": "Uniformity: lower is more spread out",
}
_BASELINES = {"knn/untrained_top1": "kNN of the untrained network", "knn/pixels_top1": "kNN of the raw pixels"}
_ACCURACIES = {
    "knn/val_top1": "kNN",
    "probe/val_top1": "linear probe",
    "probe/train_top1": "linear probe, training images",
}


def tiles(record: Record) -> str:
    """The headline figures."""
    summary = record.summary
    shown = [
        ("kNN top-1", _percent(summary.knn_top1), "of the representation"),
        ("Linear probe top-1", _percent(summary.probe_top1), "trained alongside"),
        ("Untrained network", _percent(summary.untrained_top1), summary.gain(summary.untrained_top1)),
        ("Raw pixels", _percent(summary.pixels_top1), summary.gain(summary.pixels_top1)),
        ("Images per second", None if (rate := summary.images_per_second) is None else f"{rate:,.0f}", "in training"),
        ("Time", clock(summary.wall_seconds), f"{clock(summary.train_seconds)} in training"),
    ]
    boxes = [
        f'<div class="tile"><div class="label">{label}</div>'
        f'<div class="value{" long" if len(value) > 9 else ""}">{value}</div>'
        f'<div class="note">{note}</div></div>'
        for label, value, note in shown
        if value is not None
    ]
    verdict = f'<p class="verdict">{escape(summary.verdict)}</p>' if summary.verdict else ""
    protocol = f'<p class="protocol">kNN protocol: {escape(summary.protocol)}.</p>' if summary.protocol else ""
    return f'<div class="tiles">{"".join(boxes)}</div>{verdict}{protocol}'


def curves(record: Record) -> str:
    """Every logged metric over the run: loss and accuracies large, the rest small."""
    drawable = {name: curve for name, curve in sorted(record.history.curves.items()) if _has_values(curve)}
    if not drawable:
        raise UnavailableError("Nothing was logged; a run logs every `trainer.log_every_n_steps` steps.")
    accuracies = {name: drawable.pop(name) for name in list(drawable) if "top1" in name or "top5" in name}
    large, small = [], []
    if "train/loss" in drawable:
        line = Line.of("loss", drawable.pop("train/loss"), LINES[0])
        large.append(_figure(_TITLES["train/loss"], ["train/loss"], [line]))
    if accuracies:
        sources = sorted({f"{name.partition('/')[0]}/*" for name in accuracies})
        large.append(_figure("Accuracy", sources, _accuracy_lines(accuracies), " %"))
    for i, (name, curve) in enumerate(sorted(drawable.items(), key=lambda item: item[0] not in _TITLES)):
        line = Line.of(name, curve, LINES[i % len(LINES)])
        small.append(_figure(_TITLES.get(name, name), [name], [line], width=400, height=220))
    return f'<div class="charts large">{"".join(large)}</div><div class="charts small">{"".join(small)}</div>'


def _accuracy_lines(accuracies: dict[str, Curve]) -> list[Line]:
    """The kNN and probe accuracies, and as dashed levels what they are compared with."""
    last = max(curve.latest[0] for curve in accuracies.values())
    lines = []
    names = sorted(accuracies, key=lambda name: [*_ACCURACIES, name].index(name))
    for name in names:
        if name not in _BASELINES:
            label = _ACCURACIES.get(name, name)
            lines.append(Line.of(label, accuracies[name], LINES[len(lines) % len(LINES)], scale=100))
    for (name, label), colour in zip(_BASELINES.items(), BASELINES, strict=True):
        if name in accuracies:
            level = 100 * accuracies[name].latest[2]
            lines.append(Line(label, [0, last], [], [level, level], colour, dashed=True))
    return lines


def _figure(title: str, names: list[str], lines: list[Line], unit: str = "", **size: int) -> str:
    caption = f"<figcaption>{escape(title)}<code>{escape(', '.join(names))}</code></figcaption>"
    key = legend(lines) if len(lines) > 1 else ""
    return f"<figure>{caption}{line_chart(lines, unit, **size)}{key}</figure>"


def _has_values(curve: Curve) -> bool:
    return any(math.isfinite(value) for value in curve.points()[2])


def _percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.1f}\u2009%"
