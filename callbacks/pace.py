"""How fast a run trains, how much of it is done, and how long the rest will take."""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Trainer

_WINDOW = 10.0  # seconds of training that the moving rate looks back


def images_in(outputs: Any) -> int:
    """Images of this rank's batch, by the step's outputs; 0 where they do not say."""
    return len(outputs["index"]) if isinstance(outputs, Mapping) and "index" in outputs else 0


def share_of_run(trainer: Trainer) -> float | None:
    """How much of the run is done, from 0 to 1, by whichever of its limits comes first; None if it has none.

    Counts batches and steps from the start of the run, also where this process has resumed it.
    """
    shares = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        batches = trainer.num_training_batches
        if batches == float("inf"):  # a stream that does not say when an epoch ends
            shares.append(trainer.current_epoch / trainer.max_epochs)
        else:
            shares.append((trainer.fit_loop.total_batch_idx + 1) / max(1, batches * trainer.max_epochs))
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    return min(1.0, max(shares)) if shares else None


def clock(seconds: float) -> str:
    """Seconds as people say them, in two units at most: `45 s`, `12 min 05 s`, `3 h 07 min`, `2 d 04 h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole // 60 % 60:02d} min"
    return f"{whole // 86400} d {whole // 3600 % 24:02d} h"


class Pace:
    """Images trained on per second of training: validation does not count, nor does the first batch of a process,
    which pays for compilation, autotuning and the filling of the loader.

    Attributes:
        images: images trained on since the clock first ran, over all ranks.
        seconds: seconds of training up to the last pause.
    """

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self._since: float | None = None
        self._begun = False
        self._readings = deque([(0.0, 0)])  # (seconds, images) over the last `_WINDOW`

    def count(self, images: int) -> None:
        """A batch of so many images, over all ranks, is done."""
        if self._begun:
            self.images += images
        else:
            self._begun = True
            self.resume()

    def pause(self) -> None:
        """Validation begins."""
        self.seconds, self._since = self.elapsed, None

    def resume(self) -> None:
        """Validation is over."""
        if self._begun and self._since is None:
            self._since = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    @property
    def rate(self) -> float | None:
        """Images per second so far; None before there is anything to divide."""
        return self.images / self.elapsed if self.images else None

    def recent_rate(self) -> float | None:
        """Images per second over the last seconds, or since the last reading if longer ago; None at the start."""
        if self.images > self._readings[-1][1]:
            self._readings.append((self.elapsed, self.images))
        while len(self._readings) > 2 and self._readings[1][0] < self._readings[-1][0] - _WINDOW:
            self._readings.popleft()
        (began, before), (ended, after) = self._readings[0], self._readings[-1]
        return (after - before) / (ended - began) if after > before else None


class TimeLeft:
    """Seconds to the end of the run, from this process's own speed, validation and checkpoints included.

    The first batch is left out, since it pays for compilation and autotuning.
    """

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None  # (time, share) after the first batch

    def start(self, share: float | None) -> None:
        """Remembers the share of the run done after the first batch; later calls change nothing."""
        if self._start is None and share is not None:
            self._start = (time.perf_counter(), share)

    def estimate(self, share: float | None) -> float | None:
        """Seconds left when `share` of the run is done; None while there is nothing to go by."""
        if self._start is None or share is None or share <= self._start[1]:
            return None
        began, done_before = self._start
        return (time.perf_counter() - began) * (1 - share) / (share - done_before)
