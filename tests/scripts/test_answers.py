"""What an exception is answered with: a sentence where a person can mend its cause, else its stack trace."""

import errno
import multiprocessing
import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from callbacks.preemption import Preempted
from datamodules.errors import UserError
from scripts.answers import answer
from scripts.parsing import answering_mistakes
from tests.support.ranks import in_process


def os_error(number, *file):
    return OSError(number, os.strerror(number), *file)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_a_disk_that_takes_no_more_is_told(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (answer(os_error(number, str(tmp_path / "a" / "metrics.csv"))) or "").startswith(
        f"a/metrics.csv could not be written ({os.strerror(number)}). Make room"
    )
    assert (answer(os_error(number)) or "").startswith(f"A file could not be written ({os.strerror(number)}). Make")


def test_a_disk_is_found_behind_what_came_of_it():
    try:
        try:
            raise os_error(errno.ENOSPC)
        finally:  # as torch's writer does
            raise RuntimeError("unexpected pos 768 vs 662")
    except RuntimeError as error:
        assert "No space left on device" in (answer(error) or "")
    assert "its disk takes no more" in (answer(RuntimeError("failed writing file data/0: file write failed")) or "")


def test_the_loggers_that_fail_after_a_checkpoint_do_not_hide_its_sentence():
    try:
        try:
            raise UserError("The checkpoint last.ckpt could not be written.") from os_error(errno.ENOSPC)
        finally:  # a logger's
            raise os_error(errno.ENOSPC)
    except OSError as error:
        assert answer(error) == "The checkpoint last.ckpt could not be written."


@pytest.mark.parametrize(
    "error", [os_error(errno.EACCES, "a"), FileNotFoundError("a"), EOFError(), RuntimeError("a shape"), KeyError("a")]
)
def test_what_may_be_a_fault_of_the_program_keeps_its_stack_trace(error):
    assert answer(error) is None
    with pytest.raises(type(error)), answering_mistakes():
        raise error


def lose_a_worker(heard):
    """What is said when a loader's only worker is killed, and torch may hear of it by the signal or not."""
    batches = iter(DataLoader(TensorDataset(torch.arange(1000.0)), batch_size=4, num_workers=1))
    next(batches)
    if not heard:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        for worker in multiprocessing.active_children():
            worker.kill()
        if heard:
            time.sleep(1)
        list(batches)
    except (RuntimeError, OSError, EOFError) as died:
        return answer(died)


@pytest.mark.parametrize("heard", [True, False])
def test_a_worker_that_is_killed_is_told(heard):
    told = in_process(lose_a_worker, heard)
    assert told.startswith(f"A worker of the loader died{' (Killed)' if heard else ''}")


def test_a_file_that_a_worker_does_not_find_is_no_lost_worker():
    class Missing(TensorDataset):
        def __getitem__(self, index):
            raise FileNotFoundError("picture.png")

    with pytest.raises(FileNotFoundError) as missing:
        list(DataLoader(Missing(torch.arange(4.0)), num_workers=1))
    assert answer(missing.value) is None


def test_ctrl_c_has_one_status_also_where_the_trainer_makes_it_another(capsys):
    with pytest.raises(SystemExit) as stopped, answering_mistakes():
        try:
            raise KeyboardInterrupt
        finally:  # as Lightning does
            raise SystemExit(1)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("ended", [SystemExit(0), SystemExit(2), Preempted("Stopped.")])
def test_other_ways_out_keep_their_status(ended):
    with pytest.raises(SystemExit) as stopped, answering_mistakes():
        raise ended
    assert stopped.value is ended
