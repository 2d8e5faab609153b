"""The progress of a whole run: one bar in a terminal, one plain line after each validation elsewhere."""

import time
from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar as LightningProgressBar
from rich import get_console
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from callbacks.pace import Pace, TimeLeft, clock, images_in, share_of_run

# What is shown, and the metrics it may be taken from: the first of them that was logged.
_SHOWN = {
    "loss": ("train/loss",),
    "probe": ("probe/val_top1", "probe/train_top1"),
    "kNN": ("knn/val_top1",),
    "fine-tuned": ("fine_tune/val_top1",),
}


class ProgressBar(LightningProgressBar):
    """Epoch, loss, probe, kNN, images per second, and the time left for the whole run.

    Reading a metric waits for the device, so the bar reads them at a bounded rate by the wall clock, however short the
    steps are.
    """

    def __init__(self, refresh_seconds: float = 0.5) -> None:
        """
        Args:
            refresh_seconds: least time between two updates of the bar, in seconds.
        """
        super().__init__()
        self.refresh_seconds = refresh_seconds
        self.is_enabled = True
        self._live: Live | None = None
        self._drawn = 0.0
        self._restart_clocks()

    def _restart_clocks(self) -> None:
        self._pace, self._time_left, self._began = Pace(), TimeLeft(), time.perf_counter()

    def disable(self) -> None:
        """Shows nothing from now on; Lightning calls it on all ranks but the first."""
        self.is_enabled = False

    def enable(self) -> None:
        """Shows again."""
        self.is_enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints; above the bar if there is one, since a live display captures standard output."""
        if self.is_enabled:
            print(*args, **kwargs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clocks."""
        self._restart_clocks()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch, and draws if it is time to."""
        self._pace.count(images_in(outputs) * trainer.world_size)
        self._time_left.start(share_of_run(trainer))
        self._draw(self._training)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the last state of the bar on the screen."""
        self._draw(self._training, now=True)
        self._close()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of training."""
        self._pace.pause()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Shows how far the validation is."""
        if trainer.state.fn != "fit":
            self._draw(lambda: _position("validation", batch_idx, trainer.num_val_batches, dataloader_idx))
        elif not trainer.sanity_checking:
            self._draw(self._training)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how things stand, and restarts the clock of training."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self.is_enabled and not get_console().is_terminal:
            print(self._line(), flush=True)
        self._draw(self._training, now=True)
        self._pace.resume()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Shows how far the test is."""
        self._draw(lambda: _position("test", batch_idx, trainer.num_test_batches, dataloader_idx))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Shows how far the prediction is."""
        self._draw(lambda: _position("prediction", batch_idx, trainer.num_predict_batches, dataloader_idx))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the terminal back."""
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the terminal back."""
        self._close()

    def _draw(self, content: Callable[[], RenderableType], now: bool = False) -> None:
        """Shows `content()` if this is a terminal and the last drawing is long enough ago."""
        if not self.is_enabled or (not now and time.perf_counter() - self._drawn < self.refresh_seconds):
            return
        console = get_console()
        if not console.is_terminal:
            return
        if self._live is None:
            transient = self.trainer.state.fn != "fit"
            self._live = Live(console=console, auto_refresh=False, transient=transient)
            self._live.start()
        self._live.update(content(), refresh=True)
        self._drawn = time.perf_counter()

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _training(self) -> RenderableType:
        """The bar, and below it the newest values."""
        share = share_of_run(self.trainer)
        left = self._time_left.estimate(share)
        row = Table.grid(padding=(0, 2), expand=True)
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True)
        times = f"{clock(time.perf_counter() - self._began)}, {'...' if left is None else clock(left)} left"
        if share is None:
            row.add_row(self._epoch(), Bar(pulse=True), f"{clock(time.perf_counter() - self._began)}, no end set")
        else:
            row.add_row(self._epoch(), Bar(total=1.0, completed=share), f"{share:4.0%}  {times}")
        return Group(row, Text("  ".join(self._values()), style="dim", no_wrap=True, overflow="ellipsis"))

    def _line(self) -> str:
        """How things stand, in one line of plain text."""
        left = self._time_left.estimate(share_of_run(self.trainer))
        step = f"step {self.trainer.global_step:,}"
        ending = [] if left is None else [f"{clock(left)} left"]
        return "  ".join([self._epoch(), step, *self._values(), *ending])

    def _epoch(self) -> str:
        """For example `epoch 3/20`, the first being 1."""
        epoch, last = self.trainer.fit_loop.epoch_progress.current.ready, self.trainer.max_epochs
        return f"epoch {epoch}/{last}" if last is not None and last > 0 else f"epoch {epoch}"

    def _values(self) -> list[str]:
        """The newest metrics and images per second, as text."""
        metrics = self.trainer.callback_metrics
        texts = []
        for label, names in _SHOWN.items():
            name = next((name for name in names if name in metrics), None)
            if name is not None:
                value = float(metrics[name])
                texts.append(f"{label} {value:.1%}" if name.endswith("top1") else f"{label} {value:.4g}")
        rate = self._pace.recent_rate()
        return texts if rate is None else [*texts, f"{rate:,.0f} images/s"]


def _position(what: str, batch_idx: int, batches: int | float | list[int | float], dataloader_idx: int) -> Text:
    """For example `validation 12/40`."""
    total = batches[dataloader_idx] if isinstance(batches, list) else batches
    return Text(f"{what} {batch_idx + 1}" + ("" if total == float("inf") else f"/{total:.0f}"))
