"""Watches a run and reports on it when it ends, however it ends."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich import get_console

from callbacks.disk import whole
from callbacks.history import History
from callbacks.pace import images_in
from callbacks.reconstruction import ReconstructionMonitor
from callbacks.report.environment import describe_environment
from callbacks.report.page import build_page
from callbacks.report.record import Record
from callbacks.report.sample import ValidationSample, ViewSample
from callbacks.stopwatch import Stopwatch
from callbacks.summary import Summary, relative, summarize
from datamodules.views import Views

_log = logging.getLogger(__name__)


class RunReport(Callback):
    """At the end of a fit: a table in the terminal, `summary.json` and `report.html` in the run's folder.

    Also after Ctrl-C or an error, if at least one validation was done. The history of the metrics travels in the
    checkpoints, so that a resumed run's report shows the whole curve. Reads only what the steps hand out; the one thing
    it asks of the data module is clean images, at the end.
    """

    def __init__(self) -> None:
        self.history = History()
        self._folder: Path | None = None
        self._views: ViewSample | None = None
        self._sample: ValidationSample | None = None
        self._gathering: ValidationSample | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Adds the history to the trainer's loggers; nothing is kept or written in a `fast_dev_run`."""
        self._folder = None
        if stage != "fit" or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        # On all ranks and now, because it is a collective call: when a run breaks, the others may be gone.
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)
        if self.history not in trainer.loggers:
            self.history = History(trainer.default_root_dir)
            trainer.loggers.append(self.history)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts images, and keeps the views of the first few."""
        self.history.pace.count(images_in(outputs) * trainer.world_size)
        if self._views is None and isinstance(batch, Views) and self._writes(trainer):
            self._views = ViewSample(batch, _data(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of training, and gathers anew."""
        self.history.pace.pause()
        if self._writes(trainer):
            self._gathering = ValidationSample(_data(trainer))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps features and thumbnails of a fixed subset."""
        if self._gathering is not None:
            self._gathering.add(batch, outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the complete sample over, and restarts the clock of training."""
        if self._gathering is not None:
            self._sample, self._gathering = self._gathering.finish(), None
        self.history.pace.resume()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports on the finished run."""
        if self._writes(trainer):
            self._report(trainer, pl_module, None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Reports on the interrupted run, if it came as far as a validation; not where it is told to leave at once."""
        if self._sample is not None and self._writes(trainer) and not isinstance(exception, SystemExit):
            self._report(trainer, pl_module, exception)

    def state_dict(self) -> dict[str, Any]:
        """The history."""
        return self.history.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint's history."""
        self.history.load_state_dict(state_dict)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Brings the history in the checkpoint up to its step."""
        if self.history in trainer.loggers:
            self.history.catch_up(trainer)
            checkpoint["callbacks"][self.state_key] = self.history.state_dict()

    def _writes(self, trainer: Trainer) -> bool:
        """Whether this is the process that reports, and on a run that is worth it."""
        return self._folder is not None and trainer.is_global_zero and not trainer.sanity_checking

    def _report(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None) -> None:
        assert self._folder is not None
        summary = summarize(trainer, self.history, exception)
        page = self._folder / "report.html"
        if _written(page, lambda part: part.write_text(build_page(self._record(trainer, pl_module, summary)), "utf-8")):
            summary.report = str(relative(page))
        _written(self._folder / "summary.json", summary.write)
        get_console().print(summary.render(), soft_wrap=True)

    def _record(self, trainer: Trainer, pl_module: LightningModule, summary: Summary) -> Record:
        assert self._folder is not None
        data = _data(trainer)
        profiler = trainer.profiler  # pyright: ignore[reportAttributeAccessIssue]
        callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        title = type(pl_module).__name__ + (f" on {type(data).__name__}" if data is not None else "")
        return Record(
            title=title,
            folder=self._folder,
            summary=summary,
            history=self.history,
            data=data,
            device=trainer.strategy.root_device,
            sample=self._sample,
            views=self._views,
            reconstructions=next((c for c in callbacks if isinstance(c, ReconstructionMonitor)), None),
            seconds=profiler.categories() if isinstance(profiler, Stopwatch) else None,
            environment=describe_environment(trainer),
            class_names=getattr(data, "class_names", None),
        )


def _written(path: Path, write: Callable[[Path], object]) -> bool:
    """Whether a file could be written; a run that has done its work, or has an error of its own, lives without it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            write(part)
    except OSError as error:  # a full disk
        _log.warning("%s could not be written (%s).", relative(path), error)
        return False
    except Exception:
        _log.exception("%s could not be written", relative(path))
        return False
    return True


def _data(trainer: Trainer) -> Any:
    """The data module, or None."""
    return trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
