"""A run that is told to stop saves what it has done, ends with status 75, and goes on exactly where it stopped."""

import csv
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks import preemption
from callbacks.preemption import START_AGAIN
from tests.support.commands import cli
from tests.support.ranks import in_process
from tests.support.signalling import JOB, STEPS, finish, signalled, start_ranks, state, torchrun_environments
from tests.support.training import assert_same

pytestmark = pytest.mark.process


def logged(folder: Path, *versions: int) -> dict[tuple[str, str], str]:
    """What the runs logged, but for times: (step, name) -> value."""
    found: dict[tuple[str, str], str] = {}
    for version in versions:
        with (folder / f"runs/version_{version}/metrics.csv").open() as file:
            for row in csv.DictReader(file):
                found |= {(row["step"], name): value for name, value in row.items() if value and "/" in name}
    return {key: value for key, value in found.items() if not key[1].startswith("time/")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    outcome = cli(*JOB, folder=folder)
    assert outcome.code == 0, outcome.text
    return folder


@pytest.mark.parametrize(
    ("hook", "count", "name", "step"),
    [
        ("on_train_batch_start", STEPS + 2, "SIGTERM", STEPS + 2),
        pytest.param("on_train_batch_start", STEPS + 1, "SIGUSR1", STEPS + 1, marks=pytest.mark.slow),
        ("on_train_batch_start", STEPS, "SIGUSR1", STEPS),  # the last of an epoch: before its validation
        ("on_validation_batch_start", 1, "SIGTERM", STEPS),
        pytest.param("on_validation_batch_end", 2, "SIGTERM", STEPS, marks=pytest.mark.slow),
        ("on_validation_end", 1, "SIGTERM", STEPS + 1),  # too late for this epoch: one step on
        ("on_validation_batch_end", 5, "SIGTERM", 3 * STEPS),  # all is trained
    ],
)
def test_goes_on_where_it_stopped(whole, hook, count, name, step, tmp_path):
    stopped = cli(*JOB, *signalled(hook, count, name=name), folder=tmp_path)
    assert stopped.code == START_AGAIN, stopped.text
    sentence = f"Stopped by {name} after step {step}, which runs/version_0/checkpoints/last.ckpt holds."
    assert sentence in stopped.text
    assert "Traceback" not in stopped.text
    assert torch.load(tmp_path / "runs/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"] == step

    resumed = cli(*JOB, folder=tmp_path)
    assert resumed.code == 0, resumed.text
    assert_same(state(tmp_path, 1), state(whole, 0))
    assert logged(tmp_path, 0, 1) == logged(whole, 0)


def test_twice_in_one_run(whole, tmp_path):
    for hook, count in (("on_validation_batch_start", 1), ("on_validation_batch_end", 3)):
        assert cli(*JOB, *signalled(hook, count), folder=tmp_path).code == START_AGAIN
    assert cli(*JOB, folder=tmp_path).code == 0
    assert_same(state(tmp_path, 2), state(whole, 0))
    assert logged(tmp_path, 0, 1, 2) == logged(whole, 0)


def test_waits_for_the_step_that_accumulated_batches_end_in(tmp_path):
    job = [*JOB, "--trainer.accumulate_grad_batches", "2"]
    (tmp_path / "whole").mkdir()
    assert cli(*job, folder=tmp_path / "whole").code == 0
    stopped = cli(*job, *signalled("on_train_batch_end", 1), folder=tmp_path)
    assert "after step 1, " in stopped.text
    assert stopped.code == START_AGAIN
    assert cli(*job, folder=tmp_path).code == 0
    assert_same(state(tmp_path, 1), state(tmp_path / "whole", 0))


def test_an_epoch_without_validation_ends_first(tmp_path):
    job = [*JOB, "--trainer.check_val_every_n_epoch", "3"]
    (tmp_path / "whole").mkdir()
    assert cli(*job, folder=tmp_path / "whole").code == 0
    stopped = cli(*job, *signalled("on_train_batch_start", STEPS), folder=tmp_path)
    assert stopped.code == START_AGAIN
    assert f"after step {STEPS + 1}, " in stopped.text
    assert cli(*job, folder=tmp_path).code == 0
    assert_same(state(tmp_path, 1), state(tmp_path / "whole", 0))


def test_workers_that_got_the_signal_too(tmp_path):
    job = [*JOB, "--data.cache", "none", "--data.num_workers", "2"]
    (tmp_path / "whole").mkdir()
    assert cli(*job, folder=tmp_path / "whole").code == 0
    stopped = cli(*job, *signalled("on_train_batch_start", 3, to="group"), folder=tmp_path)
    assert stopped.code == START_AGAIN, stopped.text
    assert "after step 3, " in stopped.text
    assert cli(*job, folder=tmp_path).code == 0
    assert_same(state(tmp_path, 1), state(tmp_path / "whole", 0))


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start"])
def test_before_the_first_step_there_is_nothing_to_save(hook, tmp_path):
    stopped = cli(*JOB, *signalled(hook), folder=tmp_path)
    assert stopped.code == START_AGAIN
    assert "Stopped by SIGTERM at once: no step was done that could be saved." in stopped.text
    assert "Traceback" not in stopped.text
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_second_signal_leaves_at_once(tmp_path):
    stopped = cli(*JOB, *signalled("on_train_batch_start", 3, to="twice"), folder=tmp_path)
    assert stopped.code == START_AGAIN
    assert "Stopped by a second SIGTERM, at once." in stopped.text
    assert not list(tmp_path.rglob("*.ckpt"))


def test_what_saving_met_is_no_reason_to_start_again(tmp_path):
    told = [*JOB, *signalled("on_train_batch_start", 3), "--trainer.callbacks+=tests.support.signalling.NoRoom"]
    stopped = cli(*told, folder=tmp_path)
    assert stopped.code not in (0, START_AGAIN)
    assert "No space left on device" in stopped.text
    assert "Stopped by" not in stopped.text


def test_a_run_that_has_ended_is_not_stopped(tmp_path):
    ended = cli(*JOB, *signalled("on_train_batch_end", 3 * STEPS), "--trainer.limit_val_batches", "0", folder=tmp_path)
    assert ended.code == 0, ended.text


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("strategy", "hook", "step"),
    [
        ("ddp", "on_train_batch_start", 3),
        pytest.param("ddp", "on_validation_batch_start", STEPS, marks=pytest.mark.slow),
        pytest.param("sharded", "on_train_batch_start", 3, marks=pytest.mark.slow),
    ],
)
def test_ranks_stop_at_the_same_step(strategy, hook, step, tmp_path):
    on_two = f"--data.batch_size 8 --data.eval_batch_size 4 --trainer.devices 2 --trainer.strategy {strategy}"
    two = [*JOB, *on_two.split()]
    whole = tmp_path / "whole"
    whole.mkdir()
    codes, texts = finish(start_ranks(two, whole, torchrun_environments(2)))
    assert codes == [0, 0], texts

    told = [*two, *signalled(hook, 1, rank=1)]
    codes, texts = finish(start_ranks(told, tmp_path, torchrun_environments(2)))
    assert codes == [START_AGAIN] * 2, texts
    assert "Stopped by SIGTERM after step" in texts[0]
    assert "Stopped by" not in texts[1]
    saved = torch.load(tmp_path / "runs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == step

    codes, texts = finish(start_ranks(two, tmp_path, torchrun_environments(2)))
    assert codes == [0, 0], texts
    assert_same(state(tmp_path, 1), state(whole, 0))


SLURM = {
    **{"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    **{"SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_JOB_ID": "4321", "SLURM_JOB_NAME": "train"},
}


def fake_scontrol(folder: Path) -> dict[str, str]:
    """A PATH on which scontrol notes what it was asked."""
    script = folder / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n')
    script.chmod(0o755)
    return {"PATH": f"{script.parent}:/usr/bin:/bin"}


def test_under_slurm_the_job_script_requeues(tmp_path):
    told = [*JOB, *signalled("on_train_batch_start", 2, name="SIGUSR1")]
    stopped = cli(*told, folder=tmp_path, environment=SLURM | fake_scontrol(tmp_path))
    assert stopped.code == START_AGAIN, stopped.text
    assert "after step 2, " in stopped.text
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == ["last.ckpt"]
    assert not (tmp_path / "asked").exists()


def test_a_plugin_of_the_users_requeues_as_it_likes(tmp_path):
    plugin = ["--trainer.plugins", "lightning_fabric.plugins.environments.SLURMEnvironment"]
    told = [*JOB, *plugin, *signalled("on_train_batch_start", 2, name="SIGUSR1")]
    outcome = cli(*told, folder=tmp_path, environment=SLURM | fake_scontrol(tmp_path))
    assert outcome.code == 0, outcome.text
    assert (tmp_path / "asked").read_text() == "requeue 4321\n"


def _sleeps(begun: Any) -> None:
    begun.set()
    time.sleep(3)


def _children() -> list[int | None]:
    preemption.listen()
    ended = []
    fork = multiprocessing.get_context("fork")
    for name in ("SIGUSR1", "SIGTERM"):
        begun = fork.Event()
        child = fork.Process(target=_sleeps, args=(begun,))
        child.start()
        begun.wait(30)  # until then Python forgets signals that a new process gets
        os.kill(child.pid or 0, signal.Signals[name])
        child.join(30)
        ended.append(child.exitcode)
    return ended


def test_children_leave_it_to_their_parent_which_can_end_them():
    assert in_process(_children) == [0, -signal.SIGTERM]


def test_a_signal_after_the_last_step_is_told_that_all_is_saved():
    requests = preemption.Requests()
    requests.is_done = True
    with pytest.raises(preemption.Preempted) as stopped:
        requests(signal.SIGTERM, None)
    assert stopped.value.code == START_AGAIN
    assert "all was trained and saved" in stopped.value.sentence


def test_signals_are_left_to_those_who_have_them_already(monkeypatch):
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        preemption.listen()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)
        if signal.getsignal(signal.SIGTERM) is preemption._requests:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
