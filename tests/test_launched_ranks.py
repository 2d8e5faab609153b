"""Two ranks, one started by the other as Lightning does it: what becomes of each when the other dies or is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from callbacks.preemption import START_AGAIN
from tests.support.commands import ROOT
from tests.support.signalling import STEPS, TWO, run_program, signalled

pytestmark = [pytest.mark.ddp, pytest.mark.slow]
MINUTE = 60.0


def only_child(run: subprocess.Popen) -> int:
    """The pid of the rank that a program starts, once it has."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    end = time.monotonic() + 3 * MINUTE
    while not (found := children.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return int(found[0])


def wait_for_the_end_of_all(run: subprocess.Popen) -> None:
    """Until a program has ended, and what it started."""
    end = time.monotonic() + MINUTE
    while time.monotonic() < end:
        try:
            os.killpg(run.pid, 0)  # asks only whether anybody is left
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGKILL)
    pytest.fail("a rank is left behind")


@pytest.mark.parametrize("dead", [0, 1])
def test_ranks_that_lightning_started(dead, tmp_path):
    told = [*TWO, *signalled("on_train_batch_start", STEPS + 2, name="SIGKILL", rank=dead)]
    log = tmp_path / "log"
    run = run_program([sys.executable, str(ROOT / "cli.py"), *told], tmp_path, log)
    code = run.wait(3 * MINUTE)
    assert code == (1 if dead else -signal.SIGKILL)
    end = time.monotonic() + MINUTE
    while "error: rank" not in log.read_text() and time.monotonic() < end:
        time.sleep(0.5)
    text = log.read_text()
    assert f"error: rank {dead} of 2" in text
    assert dead == 0 or "was ended by SIGKILL" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("hook", "said"), [("on_train_batch_start", "after step 3, "), ("on_train_start", "at once: no step was done")]
)
def test_a_signal_to_the_process_that_started_the_others(hook, said, tmp_path):
    log = tmp_path / "log"
    run = run_program([sys.executable, str(ROOT / "cli.py"), *TWO, *signalled(hook)], tmp_path, log)
    assert run.wait(3 * MINUTE) == START_AGAIN, log.read_text()
    wait_for_the_end_of_all(run)
    text = log.read_text()
    assert said in text
    assert "Traceback" not in text


@pytest.mark.parametrize("dead", [0, 1])
def test_ranks_that_have_not_met_yet(dead, tmp_path):
    log = tmp_path / "log"
    run = run_program([sys.executable, str(ROOT / "cli.py"), *TWO], tmp_path, log)
    other = only_child(run)
    os.kill(other if dead else run.pid, signal.SIGTERM if dead else signal.SIGKILL)
    code = run.wait(MINUTE)
    assert code == (START_AGAIN if dead else -signal.SIGKILL)
    wait_for_the_end_of_all(run)
    text = log.read_text()
    assert ("Stopped: rank 1 of 2" if dead else "error: the process that started the ranks of this machine") in text
    assert "Traceback" not in text


def test_a_signal_to_another_rank_before_the_first_step(tmp_path):
    log = tmp_path / "log"
    told = [*TWO, *signalled("on_fit_start", rank=1)]
    run = run_program([sys.executable, str(ROOT / "cli.py"), *told], tmp_path, log)
    assert run.wait(3 * MINUTE) == START_AGAIN, log.read_text()
    wait_for_the_end_of_all(run)
    assert "Stopped: rank 1 of 2" in log.read_text()
    assert "Traceback" not in log.read_text()
