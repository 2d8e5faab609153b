"""The table of what pre-training saves in labels, for the terminal."""

import statistics
from dataclasses import dataclass

from rich.table import Table


@dataclass
class Cell:
    """One start at one share of the labels.

    Attributes:
        start: `scratch` or `pretrained`.
        fraction: share of the labels.
        images: training images; of the first seed, should they differ.
        held_out: by learning rate, the mean accuracy over the seeds on held-out labels; empty without a choice.
        lr: the rate with the best of these.
        accuracy: on the validation images, seed by seed.
    """

    start: str
    fraction: float
    images: int
    held_out: dict[float, float]
    lr: float
    accuracy: list[float]

    def __str__(self) -> str:
        """Mean and standard deviation over the seeds, in percent."""
        values = [100 * value for value in self.accuracy]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"


def table(cells: list[Cell]) -> Table:
    """Both starts side by side, and the gain in points."""
    shown = Table("labels", "images", "from scratch %", "pretrained %", "gain", "lr")
    for scratch, tuned in zip(cells[::2], cells[1::2], strict=True):
        gain = 100 * (statistics.mean(tuned.accuracy) - statistics.mean(scratch.accuracy))
        share, rates = f"{100 * scratch.fraction:g} %", f"{scratch.lr:g}, {tuned.lr:g}"
        shown.add_row(share, str(scratch.images), str(scratch), str(tuned), f"{gain:+.1f}", rates)
    return shown
