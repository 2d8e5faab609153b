"""Clocks for the parts of a training step, by the host's time, with the device waited for where that is due."""

import time
from collections.abc import Callable
from typing import Literal

WARM_UP = 3  # batches that pay for compilation, autotuning and first allocations
FEWEST = 2  # batches that a mean is taken over at least


class StepClock:
    """Times steps one by one, then as many in a row without waiting in between, as a run does them.

    Attributes:
        phase: `warm-up`, `steps`, `loop`, or `over`.
        step_seconds: sum over the steps timed one by one.
        steps: their number.
        loop_seconds: from the end of the last such step to the end of the last of the row.
        loops: batches in the row.
    """

    def __init__(self, seconds: float, window: int, wait: Callable[[], None]) -> None:
        """
        Args:
            seconds: that each of the two timings takes, at least.
            window: batches per optimiser step; timings end with a step.
            wait: returns when the device has done all its work.
        """
        self.phase: Literal["warm-up", "steps", "loop", "over"] = "warm-up"
        self.step_seconds = self.loop_seconds = 0.0
        self.steps = self.loops = 0
        self._seconds, self._window, self._wait = seconds, window, wait
        self._batches = 0
        self._began = self._phase_began = 0.0

    def begin(self) -> None:
        """A batch is there, and its step begins."""
        if self.phase == "steps":
            self._wait()
        self._began = time.perf_counter()

    def end(self) -> None:
        """The step is over."""
        self._batches += 1
        if self.phase == "warm-up" and self._batches >= WARM_UP and self._batches % self._window == 0:
            self._enter("steps")
        elif self.phase == "steps":
            self._wait()
            self.steps += 1
            self.step_seconds += time.perf_counter() - self._began
            if self._enough(self.steps):
                self._enter("loop")
        elif self.phase == "loop":
            self.loops += 1
            if self._enough(self.loops):
                self.finish()

    def finish(self) -> None:
        """Nothing more comes: takes the time of the row."""
        if self.phase == "loop" and self.loops:
            self._wait()
            self.loop_seconds = time.perf_counter() - self._phase_began
        self.phase = "over"

    def _enter(self, phase: Literal["steps", "loop"]) -> None:
        self._wait()
        self.phase = phase
        self._phase_began = time.perf_counter()

    def _enough(self, count: int) -> bool:
        long = time.perf_counter() - self._phase_began >= self._seconds
        return count >= FEWEST and count % self._window == 0 and long


class DataClock:
    """Times how long a batch takes to load, and how long from there to views on the device.

    Attributes:
        loader_seconds: sum over the batches that were timed.
        views_seconds: likewise.
        batches: their number.
    """

    def __init__(self, seconds: float, workers: int) -> None:
        """
        Args:
            seconds: that the timing takes, at least.
            workers: loading processes. Each delivers its first batch at about the same time as the others; only
                then is the loader in its stride.
        """
        self.loader_seconds = self.views_seconds = 0.0
        self.batches = 0
        self._seconds, self._left = seconds, WARM_UP + workers
        self._began = self._loaded = self._deadline = time.perf_counter()

    def loaded(self) -> None:
        """The loader has given a batch."""
        self._loaded = time.perf_counter()

    def made(self) -> bool:
        """Its views are on the device; whether enough batches have been timed."""
        now = time.perf_counter()
        if self._left:
            self._left -= 1
            self._deadline = now + self._seconds
        else:
            self.loader_seconds += self._loaded - self._began
            self.views_seconds += now - self._loaded
            self.batches += 1
        self._began = time.perf_counter()
        return self.batches >= FEWEST and now >= self._deadline
