"""A rank and the process that started it see each other's end, before the ranks have met as well."""

import os
import re
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher, subprocess_script

from callbacks import RankWatch, lookout
from callbacks.lookout import START_AGAIN
from tests.support.ranks import _context, in_process

pytestmark = pytest.mark.process
WAITS = 20.0  # seconds, far longer than what the tests take to end a process


def _launch(script: str, log: Path, seconds: float = WAITS) -> bool:
    """Starts a rank that is a shell's script, by Lightning's launcher, and waits as for the ranks to meet."""
    lookout.INTERVAL = lookout.NOTICE = 0.1
    with log.open("w") as errors:
        os.dup2(errors.fileno(), 2)
    RankWatch()
    subprocess_script._basic_subprocess_cmd = lambda: ["/bin/sh", "-c", script]
    launcher = _SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1)
    launcher.launch(time.sleep, seconds)
    return lookout.LAUNCHER in os.environ


@pytest.mark.parametrize(
    ("script", "code", "told", "how"),
    [
        ("exit 75", START_AGAIN, "Stopped", "ended with exit status 75"),
        ("kill -TERM $$", START_AGAIN, "Stopped", "was ended by SIGTERM"),
        ("kill -USR1 $$", START_AGAIN, "Stopped", "was ended by SIGUSR1"),
        ("kill -KILL $$", 1, "error", "was ended by SIGKILL"),
        ("exit 2", 1, "error", "ended with exit status 2"),
    ],
)
def test_ends_as_the_rank_calls_for_that_it_started(script, code, told, how, tmp_path):
    log = tmp_path / "log"
    assert in_process(_launch, script, log) == code
    assert re.fullmatch(rf"{told}: rank 1 of 2 \(pid \d+\) {how}\. {re.escape(lookout.GO_ON)}\n", log.read_text())


def test_outlives_a_rank_that_is_done_which_knew_who_started_it(tmp_path):
    assert in_process(_launch, f"echo ${lookout.LAUNCHER} $PPID > {tmp_path}/told", tmp_path / "log", 1.0) is False
    told, parent = (tmp_path / "told").read_text().split()
    assert told == parent


def _rank(launcher: int | None = None, errors: Connection | None = None) -> None:
    """A rank that waits for the others; with its parent as the launcher unless told."""
    lookout.INTERVAL = lookout.NOTICE = 0.1
    os.environ |= {"LOCAL_RANK": "1", lookout.LAUNCHER: str(launcher or os.getppid())}
    if errors is not None:
        os.dup2(errors.fileno(), 2)
        errors.close()
    RankWatch()
    time.sleep(5 * lookout.INTERVAL)
    os.write(2, b"waits\n")
    time.sleep(WAITS)


def _launcher(errors: Connection) -> None:
    rank = _context.get_context("fork").Process(target=_rank, args=(None, errors))
    rank.start()
    errors.close()
    time.sleep(2 * WAITS)


def test_a_rank_whose_launcher_dies_ends():
    reading, writing = _context.Pipe(duplex=False)
    launcher = _context.Process(target=_launcher, args=(writing,))
    launcher.start()
    writing.close()
    with os.fdopen(os.dup(reading.fileno())) as said:
        assert said.readline() == "waits\n"
        began = time.monotonic()
        os.kill(launcher.pid or 0, signal.SIGKILL)
        text = said.read()  # until the rank is gone
    launcher.join()
    assert time.monotonic() - began < WAITS / 2
    assert f"error: the process that started the ranks of this machine (pid {launcher.pid}) is gone." in text


def test_a_rank_whose_launcher_is_gone_already_ends():
    gone = _context.Process(target=time.sleep, args=(0,))
    gone.start()
    gone.join()
    assert in_process(_rank, gone.pid) == 1


def test_what_a_rank_starts_is_no_rank(monkeypatch):
    monkeypatch.setenv(lookout.LAUNCHER, "17")
    assert lookout.launcher_of_this_rank() == 17
    assert lookout.launcher_of_this_rank() is None
