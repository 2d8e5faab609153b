"""Ranks that die: the others end soon after, and say which it was."""

import os
import signal
import subprocess
import sys
import threading

import torch.distributed as dist
from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from pytorch_lightning import Callback, LightningModule, Trainer

INTERVAL = 1.0  # seconds from one sign of life to the next
SILENCE = 30.0  # seconds after which a rank without a sign counts as gone
SILENCE_AFTER_ERROR = 5.0  # the same, once an exchange with the others has failed
NOTICE = 5.0  # seconds that the training itself has to end after a rank was found gone
GO_ON = "The run ends here; give the same command with --ckpt_path auto to go on from its newest checkpoint."


class RankWatch(Callback):
    """Ends all ranks within a minute when one is gone, with a sentence that names it.

    An exchange between ranks cannot tell whose end broke it, and on GPUs waits for minutes before it gives up. So a
    thread of every rank gives signs of life in the store by which the ranks met, and looks for those of the next one;
    the rank that started others on its machine looks at those processes, too. The first to find a rank gone leaves word
    in the store. A rank that works, but for 30 seconds lets no thread of its own run, counts as gone.
    """

    def __init__(self) -> None:
        self._watch: _Watch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts to watch; takes Lightning's place, which kills all ranks without a word, this one included."""
        if stage != "fit" or trainer.world_size < 2 or not dist.is_initialized():
            return
        children: list[subprocess.Popen] = getattr(trainer.strategy.launcher, "procs", [])
        for thread in threading.enumerate():
            if isinstance(thread, _ChildProcessObserver):
                thread._child_processes = []
        self._watch = _Watch(trainer.global_rank, trainer.world_size, children)
        trainer.strategy.barrier()  # the store holds the names of all
        self._watch.start()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on each rank ends by itself."""
        if self._watch is not None:
            trainer.strategy.barrier()
            self.stop()

    def stop(self) -> None:
        """Stops to watch, when ranks may leave; all at the same time."""
        if self._watch is not None:
            self._watch.stopped.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the program with a sentence instead of the stack trace of an exchange that another's end has broken."""
        if self._watch is None or self._watch.stopped.is_set():
            return
        if isinstance(exception, RuntimeError) and "DataLoader worker" not in str(exception):  # that is no exchange
            self._watch.silence = SILENCE_AFTER_ERROR
            if self._watch.found.wait(SILENCE_AFTER_ERROR + 2 * INTERVAL):
                for logger in trainer.loggers:
                    logger.finalize("failed")
                self._watch.end()
        self.stop()


class _Watch(threading.Thread):
    """Looks after the ranks; ends the process where the training, stuck in an exchange, does not."""

    def __init__(self, rank: int, world_size: int, children: list[subprocess.Popen]) -> None:
        super().__init__(name="rank-watch", daemon=True)
        self.rank, self.world_size, self.children = rank, world_size, children
        self.stopped, self.found = threading.Event(), threading.Event()
        self.silence = SILENCE
        self.sentence = ""
        self._rounds = 0
        self._next = (rank + 1) % world_size
        # A connection of its own: the main thread may wait for an answer on the other.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's next one finds the same store
        met = dist.distributed_c10d._get_default_store()  # pyright: ignore[reportAttributeAccessIssue]
        self._store = dist.PrefixStore(f"rank_watch/{attempt}", met).clone()  # pyright: ignore[reportAttributeAccessIssue]
        self._store.set(f"name/{rank}", f"pid {os.getpid()} on {os.uname().nodename}")
        self._store.set(f"life/{rank}", "0")

    def run(self) -> None:
        """Looks until it is stopped or has found a rank gone."""
        threading.Thread(target=self._look_after_store, name="rank-watch-store", daemon=True).start()
        heard, silent = b"", 0
        while not self.stopped.wait(INTERVAL):
            self._rounds += 1
            gone = self._child_gone()
            try:
                self._store.set(f"life/{self.rank}", str(self._rounds))
                life = self._store.get(f"life/{self._next}")
                heard, silent = life, 0 if life != heard else silent + 1
                if not gone and silent * INTERVAL > self.silence:  # in rounds: a rank that was held itself counts none
                    gone = f"{self._who(self._next)} has given no sign of life for {self.silence:.0f} seconds."
                if gone:
                    self._store.set("gone", gone)
                elif self._store.check(["gone"]):
                    gone = self._store.get("gone").decode()
            except RuntimeError:  # the store ends with the process that keeps it
                gone = gone or f"rank 0 of {self.world_size}, or the launcher on its machine, is gone."
            if gone:
                self._leave(gone)
                return

    def _look_after_store(self) -> None:
        """Ends the process where the store does not answer, as when its machine has lost power: nothing times out."""
        rounds, silent = 0, 0
        while not (self.stopped.wait(INTERVAL) or self.found.is_set()):
            rounds, silent = self._rounds, 0 if self._rounds != rounds else silent + 1
            if silent * INTERVAL > SILENCE:
                self._leave(f"rank 0 of {self.world_size}, which keeps the ranks together, does not answer.")

    def _leave(self, sentence: str) -> None:
        """Gives the training a moment to end in order, and then ends it."""
        self.sentence = sentence
        self.found.set()
        if not self.stopped.wait(NOTICE):
            self.end()

    def end(self) -> None:
        """Ends this process at once: what the exchange between the ranks has under way cannot be ended in order."""
        speaks = ("0", "1") if self.sentence.startswith("rank 0 ") else ("0",)  # not every rank of a machine
        if os.environ.get("LOCAL_RANK", "0") in speaks:
            sys.stdout.flush()
            os.write(2, f"error: {self.sentence} {GO_ON}\n".encode())
        os._exit(1)

    def _child_gone(self) -> str:
        for place, child in enumerate(self.children, start=1):
            code = child.poll()
            if code:
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
                return f"rank {self.rank + place} of {self.world_size} (pid {child.pid}) {how}."
        return ""

    def _who(self, rank: int) -> str:
        return f"rank {rank} of {self.world_size} ({self._store.get(f'name/{rank}').decode()})"
