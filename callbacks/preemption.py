"""Leaving in time: after a cluster's signal the step at hand is finished and saved, and the run can start again."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only

from callbacks.agreement import Agreement
from callbacks.lookout import SIGNALS, START_AGAIN
from callbacks.rank_watch import RankWatch
from datamodules.errors import UserError

ONE_REQUEST = 1.0  # seconds within which signals count as one: a launcher passes on what its ranks got as well
HOW_TO_GO_ON = "Give the same command with --ckpt_path auto to go on."


class Preempted(SystemExit):
    """Ends the program with `START_AGAIN`; `sentence` says what happened and how to go on."""

    def __init__(self, sentence: str) -> None:
        super().__init__(START_AGAIN)
        self.sentence = sentence


class Requests:
    """What signals ask of this process; the handler of all `SIGNALS`."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.can_save = False  # there are steps, so there is something to save first
        self.is_done = False  # all steps are, and saved
        self._since = 0.0
        self.process = os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Leaves, or notes that the run is to leave; a second request leaves at once."""
        if os.getpid() != self.process:  # a child, such as a worker of the loader, which its parent ends by SIGTERM
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        name = signal.Signals(number).name
        if self.received is not None:
            if time.monotonic() - self._since > ONE_REQUEST:
                os.write(2, f"Stopped by a second {name}, at once. {HOW_TO_GO_ON}\n".encode())
                os._exit(START_AGAIN)
            return
        self.received, self._since = signal.Signals(number), time.monotonic()
        if self.is_done:
            raise Preempted(f"Stopped by {name} at once: all was trained and saved, what was still to do is left out.")
        if not self.can_save:
            raise Preempted(
                f"Stopped by {name} at once: no step was done that could be saved. Give the same command again."
            )
        if hasattr(signal, "SIGCHLD"):
            # The loader's workers may have got the signal as well; torch would raise that here, amid the step.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)


_requests = Requests()


def listen() -> None:
    """Takes `SIGNALS` over where nobody has; only in the main thread, since Python allows no handlers in others."""
    if threading.current_thread() is not threading.main_thread():
        return
    _requests.process = os.getpid()
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, None):
            signal.signal(number, _requests)


def leave_requeueing_to_the_job(trainer: Trainer) -> None:
    """Under SLURM, takes Lightning's own requeueing off: the job script requeues a job that ends with `START_AGAIN`."""
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False


class Preemption(Callback):
    """Stops a run that is told to by SIGTERM or SIGUSR1, so that it goes on exactly where it stopped.

    After the optimiser step at hand the whole state goes to `last.ckpt` of the run's ModelCheckpoint, and the program
    ends with status 75. Amid a validation it stops as well; resumed, the run begins that validation anew. Amid
    accumulated batches, and at the end of an epoch without validation, it goes on to the next step that a run can be
    resumed from. Before the first step it leaves at once. Ranks agree on the step, whichever of them got the signal.

    A plugin of the user's that requeues (`SLURMEnvironment` with `auto_requeue`) keeps the signals to itself.
    """

    def __init__(self) -> None:
        self._agreement = Agreement()
        self._signal = 0  # what all ranks have agreed to stop for
        self._is_saving = False
        self._sentence: str | None = None  # set when the checkpoint is written
        self._amid_validation = False
        self._step_before = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replaces Lightning's signal handlers."""
        if stage != "fit":
            return
        # Last, so that what it saves holds what all others did at this step.
        trainer.callbacks = [*(c for c in trainer.callbacks if c is not self), self]  # pyright: ignore[reportAttributeAccessIssue]
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            for number in SIGNALS:
                if signal.getsignal(number) is _requests:
                    signal.signal(number, signal.SIG_DFL)
            return
        listen()
        trainer._signal_connector.register_signal_handlers = _nothing
        # Before every step it would broadcast rank 0's answer, and stop the host until the device has it.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing
        self._agreement = Agreement(trainer.world_size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is something to save."""
        _requests.can_save, _requests.is_done = True, False

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Leaves, now that the last step is in the log too."""
        self._leave_if_saved()
        self._step_before = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Saves, if it is time to and the run can be resumed from here."""
        loop = trainer.fit_loop.epoch_loop
        if not self._is_to_stop() or trainer.global_step == self._step_before or loop._num_ready_batches_reached():
            return
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None, "batches come from it"
        if not loop._should_check_val_fx(fetcher):  # resumed from before a validation, Lightning would leave it out
            self._save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops before a validation as amid one."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        # After a stop amid a validation; else they are equal.
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()
        self._leave_if_saved()
        if self._signal:
            self._save_amid_validation(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Saves, if it is time to, as if none of the validation had been done."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._is_to_stop():
            self._save_amid_validation(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All is done and saved: what is left, such as the report, may be cut short."""
        self._agreement.close()
        _requests.can_save, _requests.is_done = False, True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tells Lightning's loop that it was stopped amid a validation, before the first batch of it."""
        if not self._amid_validation:
            return
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        done = progress["total"]["completed"] = progress["total"]["completed"] - progress["current"]["completed"]
        progress["total"] |= {"ready": done + 1, "started": done + 1, "processed": done}
        progress["current"] |= dict.fromkeys(progress["current"], 0)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Passes the word on to the ranks that this process started; explains what a signal broke.

        Raises:
            Preempted: instead of an error that came after a signal, which workers of the loader may have died of; not
                of one that saving met: a run that started again would meet it again, and each time lose what it did.
        """
        if isinstance(exception, Preempted):
            launcher = trainer.strategy.launcher
            if not self._signal and launcher is not None and _requests.received:  # the others know of nothing
                launcher.kill(_requests.received)
        elif _requests.received and isinstance(exception, Exception):
            if self._is_saving or isinstance(exception, UserError):
                return
            for logger in trainer.loggers:
                logger.finalize("failed")
            broken = f"Stopped by {_requests.received.name}, which broke the step at hand ({str(exception).strip()}): "
            raise Preempted(
                self._sentence or f"{broken}the newest checkpoint before it counts. {HOW_TO_GO_ON}"
            ) from None

    def _is_to_stop(self) -> bool:
        self._signal = self._signal or self._agreement.highest(int(_requests.received or 0))
        return bool(self._signal)

    def _leave_if_saved(self) -> None:
        if self._sentence is not None:
            raise Preempted(self._sentence)

    def _save_amid_validation(self, trainer: Trainer) -> None:
        self._amid_validation = True
        self._save(trainer)
        self._leave_if_saved()

    def _save(self, trainer: Trainer) -> None:
        """Writes the checkpoint and the sentence; called on all ranks at the same point."""
        _requests.received = _requests.received or signal.Signals(self._signal)
        step, keeper = trainer.global_step, trainer.checkpoint_callback
        stopped = f"Stopped by {signal.Signals(self._signal).name} after step {step}"
        if isinstance(keeper, ModelCheckpoint) and keeper.dirpath is not None:
            path = Path(keeper.dirpath) / f"{keeper.CHECKPOINT_NAME_LAST}{keeper.FILE_EXTENSION}"
            self._is_saving = True
            trainer.save_checkpoint(path)
            self._is_saving = False
            self._sentence = f"{stopped}, which {os.path.relpath(path)} holds. {HOW_TO_GO_ON}"
        else:
            self._sentence = f"{stopped}. Nothing was saved, since this run keeps no checkpoints."
        self._agreement.close()
        for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, RankWatch):
                callback.stop()  # from here on each rank leaves by itself


def tell(preempted: Preempted) -> None:
    """Writes the sentence, once for all ranks."""
    if rank_zero_only.rank == 0:
        sys.stderr.write(f"{preempted.sentence}\n")


def _nothing(*_: Any) -> None:
    """Stands in for what Lightning would do."""
