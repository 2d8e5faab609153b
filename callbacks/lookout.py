"""Ranks of one machine and the process that started them: each sees the other's end, before they have met as well."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from pytorch_lightning.strategies.launchers import subprocess_script
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

START_AGAIN = 75
"""Exit status of a run that was stopped and can go on: EX_TEMPFAIL of sysexits.h."""
INTERVAL = 1.0  # seconds from one look, or sign of life, to the next
NOTICE = 5.0  # seconds that the training itself has to end after a rank was found gone
GO_ON = "The run ends here; give the same command with --ckpt_path auto to go on from its newest checkpoint."
LAUNCHER = "PARALLAX_LAUNCHER"  # variable that tells a rank the pid of the process that started it
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]  # Windows has the first
TOLD_TO_LEAVE = {START_AGAIN, *(-number for number in SIGNALS)}  # the latter before a program has its handlers
_start = _SubprocessScriptLauncher._call_children_scripts


class Lookout(threading.Thread):
    """Looks for what ends the run; ends the process where the training, stuck in an exchange, does not.

    Attributes:
        stopped: set to end the looking, as when the process ends by itself.
        found: set once there is something; `sentence` says what, and `code` is the exit status it calls for.
    """

    def __init__(self, name: str) -> None:
        """
        Args:
            name: of the thread.
        """
        super().__init__(name=name, daemon=True)
        self.stopped, self.found = threading.Event(), threading.Event()
        self.sentence, self.code = "", 1
        self.speakers = ("0",)  # local ranks that tell the sentence: not every one of a machine

    def leave(self, sentence: str, code: int = 1) -> None:
        """Gives the training a moment to end in order, and then ends it."""
        self.sentence, self.code = sentence, code
        self.found.set()
        if not self.stopped.wait(NOTICE):
            self.end()

    def end(self) -> None:
        """Ends this process at once: what the exchange between the ranks has under way cannot be ended in order."""
        if os.environ.get("LOCAL_RANK", "0") in self.speakers:
            sys.stdout.flush()
            kind = "Stopped" if self.code == START_AGAIN else "error"
            os.write(2, f"{kind}: {self.sentence} {GO_ON}\n".encode())
        os._exit(self.code)


class ChildLookout(Lookout):
    """Looks after the ranks that this process started."""

    def __init__(self, children: list[subprocess.Popen]) -> None:
        """
        Args:
            children: the ranks of this machine but for the first, in order.
        """
        super().__init__("child-lookout")
        self.children = children

    def run(self) -> None:
        """Looks until it is stopped or has found one gone."""
        first = int(os.environ.get("NODE_RANK", "0")) * (len(self.children) + 1)
        while not self.stopped.wait(INTERVAL):
            if gone := child_gone(self.children, first, int(os.environ["WORLD_SIZE"])):
                self.leave(*gone)
                return


class ParentLookout(Lookout):
    """Looks after the process that started this rank."""

    def __init__(self, parent: int) -> None:
        """
        Args:
            parent: its pid.
        """
        super().__init__("parent-lookout")
        self.parent, self.speakers = parent, ("1",)

    def run(self) -> None:
        """Looks until it is stopped or has found it gone, as it may be already: whose child this one is tells both."""
        while os.getppid() == self.parent:
            if self.stopped.wait(INTERVAL):
                return
        self.leave(f"the process that started the ranks of this machine (pid {self.parent}) is gone.")


def child_gone(children: list[subprocess.Popen], first: int, world_size: int) -> tuple[str, int] | None:
    """What to say of a child that ended before its time, and the exit status for it.

    Args:
        children: the ranks after `first`, in order.
        first: the rank that started them.
        world_size: number of ranks.
    """
    for rank, child in enumerate(children, start=first + 1):
        if code := child.poll():
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
            sentence = f"rank {rank} of {world_size} (pid {child.pid}) {how}."
            return sentence, START_AGAIN if code in TOLD_TO_LEAVE else 1
    return None


def replace_observer(look_after: Callable[[list[subprocess.Popen]], None]) -> None:
    """Has Lightning's launcher give the processes that it starts to `look_after`, and tell them who started them.

    Lightning's own observer kills all ranks, this one included, whatever exit status one of them ended with.
    """
    subprocess_script._launch_process_observer = look_after
    _SubprocessScriptLauncher._call_children_scripts = _start_children


def launcher_of_this_rank() -> int | None:
    """The pid of the process whose launcher started this one; None where something else did, as torchrun."""
    pid = os.environ.pop(LAUNCHER, None)  # what this one starts is no rank
    return int(pid) if pid else None


def _start_children(self: _SubprocessScriptLauncher) -> None:
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        _start(self)
    finally:
        del os.environ[LAUNCHER]
