"""Where the time of a run goes: a Lightning profiler that costs about a microsecond an action.

Lightning reports every hook, step, fetch and transfer to `trainer.profiler` by name, nested like calls. The stopwatch
keeps one stack and books to each action only its *own* seconds, without those of the actions inside it: the optimiser
step, say, without the forward and backward that run in its closure. So the categories are disjoint and, with the rest,
add up to the wall time. It keeps sums, not durations, so a long run costs no more memory than a short one.

It reads the host's clock. On an accelerator the host only launches work, so an action shows its launch time, and
whichever action waits for the device shows the wait.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pytorch_lightning.profilers import Profiler

REST = "Lightning and logging"

# Names of hooks and steps, as they end Lightning's action names, by category; in the order of a step.
_CATEGORIES = {
    "set-up": ("prepare_data", "setup", "configure_model", "configure_callbacks", "configure_optimizers")
    + ("train_dataloader", "val_dataloader"),
    "data wait": ("train_dataloader_next", "val_next", "test_next", "predict_next"),
    "transfer": ("batch_to_device", "on_before_batch_transfer", "transfer_batch_to_device"),
    "views": ("on_after_batch_transfer",),
    "forward": ("training_step",),
    "backward": ("backward", "on_before_backward", "on_after_backward"),
    "optimiser step": ("optimizer_step", "optimizer_zero_grad", "lr_scheduler_step", "configure_gradient_clipping")
    + ("on_before_optimizer_step", "on_before_zero_grad"),
    "checkpoint": ("save_checkpoint", "on_save_checkpoint"),
}
_CATEGORY_OF = {hook: category for category, hooks in _CATEGORIES.items() for hook in hooks}
# The strategy's hooks are called around every validation, the last thing in it and, callbacks aside, the first.
_VALIDATION = (".on_validation_start", ".on_validation_end")


@dataclass
class Tally:
    """What was measured under one heading.

    Attributes:
        seconds: own seconds on the host, without those of nested actions.
        count: how often its most frequent action ran; 0 for callbacks, whose many hooks no one number describes.
        parts: the same by callback class, where the heading gathers callbacks.
    """

    seconds: float = 0.0
    count: int = 0
    parts: dict[str, "Tally"] = field(default_factory=dict)

    def add(self, seconds: float, count: int) -> None:
        """Books further seconds under this heading."""
        self.seconds += seconds
        self.count = max(self.count, count)


class Stopwatch(Profiler):
    """Sums seconds and counts per action, and groups them into plain categories: `trainer.profiler=Stopwatch()`."""

    def __init__(self, dirpath: str | Path | None = None, filename: str | None = None) -> None:
        """
        Args:
            dirpath: folder for the one-line summary, if `filename` is given; the run's own folder by default.
            filename: file for the one-line summary; it goes to the console by default.
        """
        super().__init__(dirpath, filename)
        self._begin()

    def _begin(self) -> None:
        self._started = time.perf_counter()
        self._stack: list[list] = []  # of [action, start, seconds in nested actions]
        self._training: dict[str, list] = {}  # action -> [own seconds, count]
        self._validation: dict[str, list] = {}
        self._current = self._training

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Starts afresh; the trainer calls it at the start of each fit, validate, test or predict."""
        super().setup(stage, local_rank, log_dir)
        self._begin()

    def start(self, action_name: str) -> None:
        """Starts an action inside those that are running."""
        self._stack.append([action_name, time.perf_counter(), 0.0])

    def stop(self, action_name: str) -> None:
        """Stops the innermost action.

        Raises:
            ValueError: another action runs inside `action_name`, or it was never started.
        """
        now = time.perf_counter()
        if not self._stack or self._stack[-1][0] != action_name:
            running = " > ".join(action for action, _, _ in self._stack) or "nothing"
            raise ValueError(f"Cannot stop {action_name!r} while running {running}: stop the innermost action first.")
        _, began, nested = self._stack.pop()
        seconds = now - began
        if self._stack:
            self._stack[-1][2] += seconds
        tally = self._current.get(action_name)
        if tally is None:
            tally = self._current[action_name] = [0.0, 0]
        tally[0] += seconds - nested
        tally[1] += 1
        if action_name.endswith(_VALIDATION) and action_name.startswith("[Strategy]"):
            self._current = self._validation if action_name.endswith("_start") else self._training

    @property
    def wall_seconds(self) -> float:
        """Seconds since the trainer was set up."""
        return time.perf_counter() - self._started

    def categories(self) -> dict[str, Tally]:
        """Own seconds by category; they add up to `wall_seconds`.

        Returns:
            Category -> tally, in the order of a step, only what ran; callbacks and checkpoint have parts by class.
        """
        wall = self.wall_seconds
        found: dict[str, Tally] = {}
        for category, part, seconds, count in self._booked():
            tally = found.setdefault(category, Tally())
            tally.add(seconds, 0 if part or category == REST else count)
            if part:
                tally.parts.setdefault(part, Tally()).add(seconds, 0)
        rest = found.setdefault(REST, Tally())
        rest.seconds += wall - sum(tally.seconds for tally in found.values())
        order = [*_CATEGORIES, "validation", "callbacks", REST]
        return {category: found[category] for category in sorted(found, key=order.index)}

    def _booked(self) -> Iterator[tuple[str, str | None, float, int]]:
        """(category, callback class, own seconds, count) of every action so far."""
        for validating, tallies in ((False, self._training), (True, self._validation)):
            for action, (seconds, count) in tallies.items():
                yield *_classify(action, validating), seconds, count

    def summary(self) -> str:
        """One line for the console at the end of a run: the share of each category, of callbacks by class."""
        wall = self.wall_seconds
        seconds: dict[str, float] = {}
        for name, tally in self.categories().items():
            seconds |= {part: inner.seconds for part, inner in tally.parts.items()}
            seconds[name] = tally.seconds - sum(inner.seconds for inner in tally.parts.values())
        shares = sorted(seconds.items(), key=lambda item: -item[1])
        text = ", ".join(f"{name} {own / wall:.0%}" for name, own in shares if own >= 0.01 * wall)
        return f"Where {wall:.1f} s went, by the host's clock: {text}."


def _classify(action: str, validating: bool) -> tuple[str, str | None]:
    """The category of one of Lightning's action names, and the class if a callback ran."""
    owner, _, hook = action.rpartition(".")
    if owner.startswith("[Callback]"):
        name = re.match(r"\w*", owner.removeprefix("[Callback]"))  # a state key may go on with the callback's arguments
        assert name is not None
        return ("checkpoint" if "Checkpoint" in name[0] else "callbacks"), name[0]
    category = _CATEGORY_OF.get(hook or action, REST)
    if validating and category != "checkpoint":
        return "validation", None
    return category, None
