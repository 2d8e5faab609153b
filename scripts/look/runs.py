"""What finished, broken and running runs have left in their folders."""

import csv
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from callbacks.history import Curve, History
from callbacks.pace import clock
from callbacks.summary import Summary
from datamodules.errors import UserError

LOSS, KNN, PROBE = "train/loss", "knn/val_top1", "probe/val_top1"
FILES = ("summary.json", "metrics.csv", "config.yaml")  # a folder with any of them is a run's
SILENT = ("trainer.default_root_dir", "trainer.logger", "ckpt_path", "extend")  # where a run lies is no setting of it
UNSET, PRESENT, LISTED = "-", "yes", "spelled out"


@dataclass
class Run:
    """A run's folder.

    Attributes:
        folder: where it lies.
        name: what tells it from the runs beside it.
    """

    folder: Path
    name: str

    @cached_property
    def summary(self) -> Summary | None:
        """What the run came to; None before its end, or if it broke before it could say."""
        try:
            told = json.loads((self.folder / "summary.json").read_text())
            return Summary(**{f.name: told[f.name] for f in fields(Summary) if f.name in told})
        except (FileNotFoundError, ValueError, TypeError):  # not there, cut off, or something else's
            return None

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Metric -> curve, from metrics.csv; empty without it."""
        path, history = self.folder / "metrics.csv", History()
        if path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    _log(history, row)
        return history.curves

    @cached_property
    def config(self) -> dict[str, Any]:
        """Flag -> value, with what says where the run lies left out; empty without a config.yaml."""
        path = self.folder / "config.yaml"
        found = flat(yaml.safe_load(path.read_text()) or {}) if path.exists() else {}
        return {key: value for key, value in found.items() if not key.startswith(SILENT)}

    @property
    def report(self) -> Path | None:
        """The run's report, if it has one."""
        path = self.folder / "report.html"
        return path if path.exists() else None

    @property
    def state(self) -> str:
        """How the run ended, or that it has not, in a few words."""
        if self.summary:
            return f"stopped by {self.summary.stopped_by}" if self.summary.stopped_by else "finished"
        newest = max(path.stat().st_mtime for path in (self.folder, *self.folder.rglob("*")))
        return f"no summary; last wrote {clock(max(0.0, time.time() - newest))} ago"

    @property
    def verdict(self) -> str | None:
        """How the run ended, unless as it should, and what its monitor says of the representation."""
        told = [None if self.state == "finished" else self.state, self.summary and self.summary.verdict]
        return "; ".join(text for text in told if text) or None

    @property
    def epochs(self) -> int | None:
        """Epochs begun."""
        if self.summary:
            return self.summary.epochs
        return max((int(curve.latest[1]) + 1 for curve in self.curves.values()), default=None)

    @cached_property
    def steps_per_epoch(self) -> float:
        """Optimiser steps in an epoch, exact as soon as anything was logged at the end of one."""
        points = [zip(*curve.points()[:2], strict=True) for curve in self.curves.values()]
        return max(((step + 1) / (epoch + 1) for curve in points for step, epoch in curve), default=1.0)

    def latest(self, metric: str) -> float | None:
        """The newest finite value of a metric."""
        value = self.summary.metrics.get(metric) if self.summary else None
        if value is None and metric in self.curves:
            value = self.curves[metric].latest[2]
        return value if value is not None and math.isfinite(value) else None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these folders, each with a short name of its own.

    Raises:
        UserError: there is none, or one is no run's or was given twice.
    """
    if not folders:
        raise UserError("Which runs? Give their folders, for example runs/version_0 runs/version_1.")
    for folder in folders:
        if not any((folder / name).exists() for name in FILES):
            raise UserError(_no_run(folder))
    resolved = [folder.resolve() for folder in folders]
    twice = [str(folder) for folder, place in zip(folders, resolved, strict=True) if resolved.count(place) > 1]
    if twice:
        raise UserError(f"{twice[0]} was given twice: give each run once.")
    return [Run(folder, name) for folder, name in zip(folders, names_of(resolved), strict=True)]


def _no_run(folder: Path) -> str:
    if not folder.exists():
        return f"There is no folder {folder}. Give the folders of runs, such as runs/version_0."
    inside = sorted({path.parent for name in FILES for path in folder.glob(f"*/{name}")})
    hint = f" Inside it are {', '.join(str(path) for path in inside[:3])}." if inside else ""
    return f"{folder} is no run's folder: it has none of {', '.join(FILES)}.{hint}"


def names_of(folders: Sequence[Path]) -> list[str]:
    """Short names: the paths without what all of them have in common at both ends; of one, its last two parts."""
    parts = [folder.parts for folder in folders]
    if len(parts) == 1:
        return ["/".join(parts[0][-2:])]
    common = min(len(p) for p in parts)
    head = next((i for i in range(common) if len({p[i] for p in parts}) > 1), common - 1)
    tail = next((i for i in range(common - head) if len({p[-1 - i] for p in parts}) > 1), 0)
    return ["/".join(p[head : len(p) - tail]) for p in parts]


def note(runs: Sequence[Run]) -> str:
    """What a reader must know to compare the figures."""
    methods = {run.config.get("model") for run in runs if run.config}
    protocols = {run.summary.protocol for run in runs if run.summary and run.summary.protocol}
    knn = f"kNN: {protocols.pop()}" if len(protocols) == 1 else "kNN by different protocols" if protocols else "kNN"
    losses = " Losses of different methods are not comparable." if len(methods) > 1 else ""
    return f"Accuracies are top-1 on the validation images, during training; {knn}.{losses}"


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Flag -> its value in each run, of the flags in which they differ: the model's first, the callbacks' last.

    Where a callback or list is not in all runs, what is inside it is left out. Runs without a config.yaml have no part
    in the comparison.
    """
    known = [run.config for run in runs if run.config]
    keys = list(dict.fromkeys(key for config in known for key in config))
    different = [key for key in keys if any(config.get(key, UNSET) != known[0].get(key, UNSET) for config in known)]
    partial = tuple(f"{key}." for key in different if any(config.get(key) in (PRESENT, LISTED) for config in known))
    shown = sorted((key for key in different if not key.startswith(partial)), key=_group)
    return {key: [as_text(run.config.get(key, UNSET)) if run.config else "?" for run in runs] for key in shown}


def _group(key: str) -> int:
    groups = ("model", "data", "trainer", "callbacks")
    return groups.index(key.partition(".")[0]) if key.partition(".")[0] in groups else len(groups)


def as_text(value: Any) -> str:
    """A value as YAML would have it, with six digits."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(as_text(item) for item in value)}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def flat(value: dict[str, Any]) -> dict[str, Any]:
    """A configuration as flag -> value: classes by bare name, callbacks and other classes in lists by theirs."""
    found = dict(_flat(value, ""))
    return {key.replace("trainer.callbacks.", "callbacks."): leaf for key, leaf in found.items()}


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and "class_path" in value:
        yield key, value["class_path"].rpartition(".")[2]
        yield from _flat(value.get("init_args") or {}, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        yield from _listed(value, key)
    else:
        yield key, value


def _listed(items: list[dict[str, Any]], key: str) -> Iterator[tuple[str, Any]]:
    """Dictionaries in a list: of classes by their name, which adding another does not change, else by position."""
    if not any("class_path" in item for item in items):
        yield key, LISTED
    seen: dict[str, int] = {}
    for i, item in enumerate(items, 1):
        name = item["class_path"].rpartition(".")[2] if "class_path" in item else str(i)
        seen[name] = seen.get(name, 0) + 1
        place = f"{key}.{name}" + (f"({seen[name]})" if seen[name] > 1 else "")
        if "class_path" in item:
            yield place, PRESENT
            item = item.get("init_args") or {}
        yield from _flat(item, place)


def _log(history: History, row: dict[str, str | None]) -> None:
    """Adds a line of metrics.csv; one that is being written may end early."""
    step, epoch = row.pop("step", None), row.pop("epoch", None)
    if step:
        values = {name: float(text) for name, text in row.items() if text}
        history.log_metrics({**values, "epoch": float(epoch or 0)}, int(step))
