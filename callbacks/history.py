"""What a run has logged so far, small enough to travel in its checkpoints."""

import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger

from callbacks.pace import Pace


@dataclass
class Curve:
    """One metric over the run, thinned out evenly once it holds too many points.

    Attributes:
        limit: most points kept. Beyond it every second point goes, and from then on every second new one is taken.
        step: Lightning's step of each point, as in the other loggers: optimiser steps from 0.
        epoch: epoch of each point, from 0.
        value: value of each point.
        stride: one in how many arriving points is kept.
        latest: the newest (step, epoch, value), kept whatever the stride.
        arrived: how many points arrived.
    """

    limit: int = 5000
    step: list[int] = field(default_factory=list)
    epoch: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    stride: int = 1
    latest: tuple[int, float, float] = (-1, 0.0, float("nan"))
    arrived: int = 0

    def add(self, step: int, epoch: float, value: float) -> None:
        """Adds the newest point; one for the step of the newest replaces it."""
        if step == self.latest[0]:
            self.arrived -= 1
            if self.step and self.step[-1] == step:
                self._drop_last()
        self.latest = (step, epoch, value)
        if self.arrived % self.stride == 0:
            self._append(*self.latest)
        self.arrived += 1
        if len(self.step) > self.limit:
            self.stride *= 2
            self.step, self.epoch, self.value = self.step[::2], self.epoch[::2], self.value[::2]

    def points(self) -> tuple[list[int], list[float], list[float]]:
        """The steps, epochs and values that are kept, the newest point included."""
        step, epoch, value = list(self.step), list(self.epoch), list(self.value)
        if self.arrived and (not step or step[-1] != self.latest[0]):
            step.append(self.latest[0])
            epoch.append(self.latest[1])
            value.append(self.latest[2])
        return step, epoch, value

    def _append(self, step: int, epoch: float, value: float) -> None:
        self.step.append(step)
        self.epoch.append(epoch)
        self.value.append(value)

    def _drop_last(self) -> None:
        for column in (self.step, self.epoch, self.value):
            column.pop()


class History(Logger):
    """A logger that remembers: every scalar the run logs, by step and epoch, and how long and how fast it ran.

    As a logger it is given each value exactly once, dated, and already read from the device for the other loggers. Its
    state is plain Python, so it can travel in a checkpoint, and a resumed run goes on where that checkpoint was.

    Attributes:
        curves: metric name -> curve.
        hparams: what `save_hyperparameters` kept, if anything.
        pace: images per second, summed over the parts of a resumed run.
    """

    def __init__(self, save_dir: str | None = None) -> None:
        """
        Args:
            save_dir: what Lightning takes as the run's folder where this is the only logger.
        """
        super().__init__()
        self._save_dir = save_dir
        self.curves: dict[str, Curve] = {}
        self.hparams: dict[str, Any] = {}
        self.pace = Pace()
        self._wall_before = 0.0
        self._started = time.perf_counter()

    @property
    def name(self) -> str:
        """Empty: where this is the only logger, the name would become a level of the checkpoints' path."""
        return ""

    @property
    def version(self) -> str:
        """Empty, as the name."""
        return ""

    @property
    def save_dir(self) -> str | None:
        """The folder given at construction; this logger writes nothing itself."""
        return self._save_dir

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Remembers the scalars of one step."""
        epoch = metrics.get("epoch", 0)
        for name, value in metrics.items():
            if name != "epoch":
                self.curves.setdefault(name, Curve()).add(step or 0, epoch, float(value))

    def catch_up(self, trainer: Trainer) -> None:
        """Remembers what is about to be logged of this step or epoch: Lightning writes a checkpoint before it logs.

        A resumed run begins after them, so the checkpoint's curves would lack a point for ever. Logged a moment later,
        they replace themselves. Collective: on all ranks or none.
        """
        connector, loop = trainer._logger_connector, trainer.fit_loop
        if not trainer.training or loop._should_accumulate():
            return
        step = loop.epoch_loop._batches_that_stepped
        if connector._first_loop_iter is None:  # at the end of an epoch, which is dated by its last step
            step -= 1
        elif not connector.should_update_logs:
            return
        values = {name: float(value) for name, value in connector.metrics["log"].items()}
        self.log_metrics({**values, "epoch": trainer.current_epoch}, step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Remembers the hyperparameters."""
        self.hparams.update(vars(params) if isinstance(params, Namespace) else params)

    def latest(self, name: str) -> float | None:
        """The newest value of a metric, None if it was never logged."""
        return self.curves[name].latest[2] if name in self.curves else None

    def steps_before(self, *names: str) -> int | None:
        """Optimiser steps that were done when one of these metrics was last logged, None if none ever was."""
        return max((self.curves[name].latest[0] + 1 for name in names if name in self.curves), default=None)

    @property
    def wall_seconds(self) -> float:
        """Seconds from set-up to now, summed over the parts of a resumed run."""
        return self._wall_before + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, Any]:
        """The state as dictionaries, lists and numbers, which `torch.load(weights_only=True)` accepts."""
        return {
            "curves": {name: asdict(curve) for name, curve in self.curves.items()},
            "images": self.pace.images,
            "train_seconds": self.pace.elapsed,
            "wall_seconds": self.wall_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint's state; the wall clock goes on from now."""
        self.curves = {name: Curve(**curve) for name, curve in state["curves"].items()}
        self.pace = Pace()
        self.pace.images, self.pace.seconds = state["images"], state["train_seconds"]
        self._wall_before = state["wall_seconds"]
        self._started = time.perf_counter()
