"""What a run came to: the figures that the terminal, `summary.json` and the report's first lines share."""

import json
import math
import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from pytorch_lightning import Trainer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from callbacks.history import History
from callbacks.pace import clock


@dataclass
class Summary:
    """The figures of a finished or interrupted run. Accuracies are fractions; None is what was not measured.

    Attributes:
        step: optimiser steps taken.
        measured_step: optimiser steps before the validation that the accuracies are of; None without one.
        epochs: epochs begun.
        knn_top1: kNN accuracy of the representation.
        probe_top1: accuracy of the online linear probe.
        untrained_top1: kNN accuracy of the same network before training.
        pixels_top1: kNN accuracy of the raw pixels.
        images_per_second: images trained on per second over all ranks, validation not counted.
        train_seconds: seconds of training, validation not counted.
        wall_seconds: seconds from set-up to the end, summed over the parts of a resumed run.
        protocol: how the kNN accuracies were measured, as the monitor puts it.
        peak_device_mib: most memory of the accelerator that was in use at once, in MiB; None without one.
        verdict: what the representation's monitor says, in plain words.
        stopped_by: name of the exception that ended the run; None if it came to its end.
        report: path of the report.
        checkpoint: path of the newest checkpoint.
        resume: command that goes on from that checkpoint; None if the run came to its end or has no checkpoint.
        metrics: newest value of every logged metric.
    """

    step: int
    epochs: int
    measured_step: int | None = None
    knn_top1: float | None = None
    probe_top1: float | None = None
    untrained_top1: float | None = None
    pixels_top1: float | None = None
    images_per_second: float | None = None
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    protocol: str | None = None
    peak_device_mib: float | None = None
    verdict: str | None = None
    stopped_by: str | None = None
    report: str | None = None
    checkpoint: str | None = None
    resume: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes the figures as JSON; what is not a finite number becomes null, since JSON has no word for it."""
        figures = asdict(self)
        figures["metrics"] = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        path.write_text(json.dumps(figures, indent=2) + "\n")

    def render(self) -> RenderableType:
        """The figures as a table for the terminal."""
        table = Table.grid(padding=(0, 2))
        table.add_column()
        table.add_column(justify="right", style="bold")
        table.add_column(style="dim")
        for label, value, note in self._accuracies():
            table.add_row(label, f"{value:.1%}", note)
        if self.images_per_second is not None:
            table.add_row("Images per second", f"{self.images_per_second:,.0f}", "in training, without validation")
        lines: list[RenderableType] = [Text(), Text(self.outcome(), style="bold"), table]
        for label, text in (
            ("kNN protocol: ", self.protocol),
            ("", self.verdict),
            ("Report: ", self.report),
            ("Checkpoint: ", self.checkpoint),
        ):
            if text:
                lines.append(Text.assemble((label, "bold"), text))
        if self.stopped_by:
            lines.append(Text(f"Go on with: {self.resume}" if self.resume else "There is no checkpoint to go on from."))
        return Group(*lines)

    def outcome(self) -> str:
        """How the run ended and after how much, in a sentence."""
        ended = f"Stopped by {self.stopped_by}" if self.stopped_by else "Finished"
        epochs = f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"
        return f"{ended} after {epochs}, {self.step:,} steps, {clock(self.wall_seconds)}."

    def _accuracies(self) -> list[tuple[str, float, str]]:
        """(label, accuracy, what the trained network gains over it or, of its own, after how many steps it was)."""
        early = "" if self.measured_step in (None, self.step) else f"after {self.measured_step:,} steps"
        rows = [
            ("kNN top-1", self.knn_top1, early),
            ("  untrained network", self.untrained_top1, self.gain(self.untrained_top1)),
            ("  raw pixels", self.pixels_top1, self.gain(self.pixels_top1)),
            ("Linear probe top-1", self.probe_top1, early),
        ]
        return [(label, value, note) for label, value, note in rows if value is not None]

    def gain(self, baseline: float | None) -> str:
        """What training added over a baseline, in points of kNN accuracy; empty if either is unknown."""
        if baseline is None or self.knn_top1 is None:
            return ""
        return f"training: {100 * (self.knn_top1 - baseline):+.1f} points"


def summarize(trainer: Trainer, history: History, stopped_by: BaseException | None) -> Summary:
    """Collects the figures of a run from what it has logged."""
    checkpoint = newest_checkpoint(trainer)
    knn_top1 = history.latest("knn/val_top1")
    return Summary(
        step=trainer.global_step,
        epochs=trainer.fit_loop.epoch_progress.current.ready,
        measured_step=history.steps_before("knn/val_top1", "probe/val_top1"),
        knn_top1=knn_top1,
        probe_top1=history.latest("probe/val_top1"),
        untrained_top1=history.latest("knn/untrained_top1"),
        pixels_top1=history.latest("knn/pixels_top1"),
        images_per_second=history.pace.rate,
        train_seconds=history.pace.elapsed,
        wall_seconds=history.wall_seconds,
        protocol=None if knn_top1 is None else _said_by_a_callback(trainer, "protocol"),
        peak_device_mib=torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
        verdict=_said_by_a_callback(trainer, "verdict"),
        stopped_by=None if stopped_by is None else type(stopped_by).__name__,
        checkpoint=None if checkpoint is None else str(checkpoint),
        resume=None if checkpoint is None or stopped_by is None else resume_command(checkpoint),
        metrics={name: curve.latest[2] for name, curve in sorted(history.curves.items())},
    )


def _said_by_a_callback(trainer: Trainer, attribute: str) -> str | None:
    """The text, or the text from the method, of that name of the first callback that has one."""
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        value = getattr(callback, attribute, None)
        text = value() if callable(value) else value
        if isinstance(text, str) and text:
            return text
    return None


def newest_checkpoint(trainer: Trainer) -> Path | None:
    """The checkpoint that was written last, relative to the working directory if it lies below it."""
    paths = {
        Path(path)
        for callback in trainer.checkpoint_callbacks
        for path in (getattr(callback, "last_model_path", ""), getattr(callback, "best_model_path", ""))
        if path and Path(path).exists()
    }
    if not paths:
        return None
    return relative(max(paths, key=lambda path: path.stat().st_mtime))


def relative(path: Path) -> Path:
    """The path from the working directory, if it lies below it."""
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def resume_command(checkpoint: Path) -> str:
    """This process's own command, made to go on from a checkpoint."""
    arguments = iter(sys.argv)
    kept = []
    for argument in arguments:
        if argument == "--ckpt_path":
            next(arguments, None)
        elif not argument.startswith("--ckpt_path="):
            kept.append(argument)
    return shlex.join(["python", *kept, "--ckpt_path", str(checkpoint)])
