"""The sections about the run itself: where its time went, on what it ran, how it was configured."""

from html import escape

from callbacks.pace import clock
from callbacks.report.environment import config_text
from callbacks.report.record import Record, UnavailableError

_COLOURS = {
    "set-up": "#b9bec6",
    "data wait": "#e69f00",
    "transfer": "#f0c75e",
    "views": "#009e73",
    "forward": "#56b4e9",
    "backward": "#0072b2",
    "optimiser step": "#7d6bb0",
    "checkpoint": "#8c6d46",
    "validation": "#d55e00",
    "callbacks": "#cc79a7",
}
_REST = "#8a8f98"


def time_spent(record: Record) -> str:
    """Where the host's seconds went, by category."""
    if not record.seconds:
        raise UnavailableError("The time was not measured: set `trainer.profiler` to `callbacks.Stopwatch`.")
    wall = sum(tally.seconds for tally in record.seconds.values())
    bar, rows = [], []
    for name, tally in record.seconds.items():
        colour, share = _COLOURS.get(name, _REST), tally.seconds / wall
        style = f"flex-grow:{max(share, 0):.5f};background:{colour}"
        bar.append(f'<i style="{style}" title="{escape(name)} {share:.1%}"></i>')
        rows.append(_row(f'<i style="background:{colour}"></i>{escape(name)}', tally.seconds, share, tally.count))
        for part, inner in sorted(tally.parts.items(), key=lambda item: -item[1].seconds):
            if inner.seconds >= 0.001 * wall:
                label = f"<span>{escape(part)}</span>"
                rows.append(_row(label, inner.seconds, inner.seconds / wall, inner.count, "part"))
    device = "" if record.device.type == "cpu" else _DEVICE_NOTE
    return (
        f"<p>The {clock(wall)} of this process up to the end of training, by the host's clock.{device}</p>"
        f'<div class="bar">{"".join(bar)}</div><div class="scroll"><table class="numbers">'
        "<tr><th></th><th>seconds</th><th>share</th><th>times</th><th>ms each</th></tr>"
        f"{''.join(rows)}</table></div>"
    )


_DEVICE_NOTE = (
    " The host only launches the accelerator's work, so forward and backward show the time it took to launch them; the "
    "wait for the results shows wherever a value is first read."
)


def _row(name: str, seconds: float, share: float, count: int, kind: str = "") -> str:
    each = f"{1000 * seconds / count:.2f}" if count > 1 else ""
    times = f"{count:,}" if count > 1 else ""
    return (
        f'<tr class="{kind}"><th scope="row">{name}</th><td>{seconds:.2f}</td><td>{share:.1%}</td>'
        f"<td>{times}</td><td>{each}</td></tr>"
    )


def surroundings(record: Record) -> str:
    """Hardware and versions."""
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th><td>{escape(text)}</td></tr>'
        for label, text in record.environment.items()
    )
    return f'<table class="facts">{rows}</table>'


def configuration(record: Record) -> str:
    """The resolved configuration, as YAML."""
    text = config_text(record.folder, record.history.hparams)
    if text.strip() in ("", "{}"):
        raise UnavailableError("No configuration was saved: the run has neither a config.yaml nor hyperparameters.")
    return f"<details open><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"
