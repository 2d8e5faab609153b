"""All that the report is made of, gathered before any of it is written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from callbacks.history import History
from callbacks.reconstruction import ReconstructionMonitor
from callbacks.report.sample import ValidationSample, ViewSample
from callbacks.stopwatch import Tally
from callbacks.summary import Summary


class UnavailableError(Exception):
    """A section has nothing to show; the text, one sentence, says why and takes its place."""


@dataclass
class Record:
    """A run, as its report sees it.

    Attributes:
        title: method and data.
        folder: the run's folder.
        summary: the figures.
        history: everything that was logged.
        data: the data module, or None.
        device: where the data module makes images.
        sample: features and thumbnails of the last validation, if there was one.
        views: augmented training images, if any passed.
        reconstructions: the monitor that keeps completed images, if the run had one.
        seconds: own seconds by category, if the run had a stopwatch.
        environment: label -> text.
        class_names: name of each class, if known.
    """

    title: str
    folder: Path
    summary: Summary
    history: History
    data: Any
    device: torch.device
    sample: ValidationSample | None
    views: ViewSample | None
    reconstructions: ReconstructionMonitor | None
    seconds: dict[str, Tally] | None
    environment: dict[str, str]
    class_names: list[str] | None

    def class_name(self, label: int) -> str:
        """What a label is called; its number if classes have no names, "unknown" for -1."""
        if label < 0:
            return "unknown"
        names = self.class_names
        return names[label] if names is not None and label < len(names) else f"class {label}"
