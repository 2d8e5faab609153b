"""Ranks that die: the others end soon after, and say which it was."""

import os
import subprocess
import threading

import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.lookout import (
    INTERVAL,
    ChildLookout,
    Lookout,
    ParentLookout,
    child_gone,
    launcher_of_this_rank,
    replace_observer,
)

SILENCE = 30.0  # seconds after which a rank without a sign counts as gone
SILENCE_AFTER_ERROR = 5.0  # the same, once an exchange with the others has failed


class RankWatch(Callback):
    """Ends all ranks within a minute when one is gone, with a sentence that names it.

    An exchange between ranks cannot tell whose end broke it, and on GPUs waits for minutes before it gives up. So a
    thread of every rank gives signs of life in the store by which the ranks met, and looks for those of the next one;
    the rank that started others on its machine looks at those processes, too. The first to find a rank gone leaves word
    in the store. A rank that works, but for 30 seconds lets no thread of its own run, counts as gone.

    Before the ranks have met there is no store. Until then those that Lightning's launcher starts and the process that
    starts them look at each other's process. A rank that was told to leave, and ended so, makes that the others' exit
    status too.
    """

    def __init__(self) -> None:
        self._lookout: Lookout | None = None
        replace_observer(self._look_after_children)
        if launcher := launcher_of_this_rank():
            self._lookout = ParentLookout(launcher)
            self._lookout.start()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts to watch all ranks, now that they have met."""
        before = self._lookout
        if stage != "fit" or trainer.world_size < 2 or not dist.is_initialized():
            if isinstance(before, ParentLookout):
                before.stopped.set()  # rank 0 may be done before this one
            return
        children: list[subprocess.Popen] = getattr(trainer.strategy.launcher, "procs", [])
        watch = _Watch(trainer.global_rank, trainer.world_size, children)
        watch.start()
        self._lookout = watch
        if before is not None:
            before.stopped.set()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on each rank ends by itself."""
        if isinstance(self._lookout, _Watch):
            trainer.strategy.barrier()
            self.stop()

    def stop(self) -> None:
        """Stops to watch, when ranks may leave; all at the same time."""
        if self._lookout is not None:
            self._lookout.stopped.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the program with a sentence instead of the stack trace of an exchange that another's end has broken."""
        lookout = self._lookout
        if lookout is None or lookout.stopped.is_set():
            return
        if isinstance(exception, RuntimeError) and "DataLoader worker" not in str(exception):  # that is no exchange
            if isinstance(lookout, _Watch):
                lookout.silence = SILENCE_AFTER_ERROR
            if lookout.found.wait(SILENCE_AFTER_ERROR + 2 * INTERVAL):
                for logger in trainer.loggers:
                    logger.finalize("failed")
                lookout.end()
        self.stop()

    def _look_after_children(self, children: list[subprocess.Popen]) -> None:
        self._lookout = ChildLookout(children)
        self._lookout.start()


class _Watch(Lookout):
    """Looks after all ranks, once they have met."""

    def __init__(self, rank: int, world_size: int, children: list[subprocess.Popen]) -> None:
        super().__init__("rank-watch")
        self.rank, self.world_size, self.children = rank, world_size, children
        self.silence = SILENCE
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
            gone = child_gone(self.children, self.rank, self.world_size)
            try:
                self._store.set(f"life/{self.rank}", str(self._rounds))
                if self._store.check([f"life/{self._next}"]):  # else it is still on its way here
                    life = self._store.get(f"life/{self._next}")
                    heard, silent = life, 0 if life != heard else silent + 1
                if not gone and silent * INTERVAL > self.silence:  # in rounds: a rank that was held itself counts none
                    gone = f"{self._who(self._next)} has given no sign of life for {self.silence:.0f} seconds.", 1
                if gone:
                    self._store.set("gone", f"{gone[1]} {gone[0]}")
                elif self._store.check(["gone"]):
                    code, sentence = self._store.get("gone").decode().split(" ", 1)
                    gone = sentence, int(code)
            except RuntimeError:  # the store ends with the process that keeps it
                gone = gone or (f"rank 0 of {self.world_size}, or the launcher on its machine, is gone.", 1)
            if gone:
                self.leave(*gone)
                return

    def _look_after_store(self) -> None:
        """Ends the process where the store does not answer, as when its machine has lost power: nothing times out."""
        rounds, silent = 0, 0
        while not (self.stopped.wait(INTERVAL) or self.found.is_set()):
            rounds, silent = self._rounds, 0 if self._rounds != rounds else silent + 1
            if silent * INTERVAL > SILENCE:
                self.leave(f"rank 0 of {self.world_size}, which keeps the ranks together, does not answer.")

    def leave(self, sentence: str, code: int = 1) -> None:
        """As any lookout; where rank 0 cannot speak, the next one of its machine does."""
        self.speakers = ("0", "1") if sentence.startswith("rank 0 ") else ("0",)
        super().leave(sentence, code)

    def _who(self, rank: int) -> str:
        return f"rank {rank} of {self.world_size} ({self._store.get(f'name/{rank}').decode()})"
