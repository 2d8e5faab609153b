"""SLURM's job scripts, with a `srun` and a `scontrol` of our own."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from callbacks.preemption import START_AGAIN
from tests.support.commands import ROOT
from tests.support.ranks import free_port
from tests.support.signalling import JOB, STEPS, run_program, state
from tests.support.training import assert_same

SCRIPTS = ["single_node.sbatch", "multi_node.sbatch"]
MINUTE = 60.0


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


FAKE_SRUN = """#!/bin/bash
# Starts the command once for each task and passes USR1 on; ends with the highest exit status, as srun does.
while [[ $1 == --* ]]; do shift; done
pids=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$((task % SLURM_NTASKS_PER_NODE)) SLURM_NODEID=$((task / SLURM_NTASKS_PER_NODE)) \\
    "$@" &
  pids+=($!)
done
trap 'kill -USR1 "${pids[@]}"' USR1
highest=0
for pid in "${pids[@]}"; do
  while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done
  wait "$pid"
  code=$?
  ((code > highest)) && highest=$code
done
exit $highest
"""


def start_job(script: str, folder: Path, python: str, flags: list[str], tasks: int = 1) -> subprocess.Popen:
    """A job script as SLURM would run it, with a `srun` and a `scontrol` of our own; what they did is in `folder`."""
    executable(folder / "bin" / "srun", FAKE_SRUN)
    executable(folder / "bin" / "scontrol", f'#!/bin/sh\necho "$@" >> {folder}/asked\n')
    nodes = str(tasks) if script.startswith("multi") else "1"
    if not (folder / "scripts").exists():
        shutil.copytree(ROOT / "scripts" / "slurm", folder / "scripts" / "slurm")
        (folder / "cli.py").symlink_to(ROOT / "cli.py")
    return run_program(
        ["bash", str(ROOT / "scripts" / "slurm" / script), *flags],
        folder,
        folder / "log",
        PATH=f"{folder / 'bin'}:{os.environ['PATH']}",
        PYTHON=python,
        SLURM_JOB_ID="4321",
        SLURM_JOB_NAME="parallax",
        SLURM_NNODES=nodes,
        SLURM_NTASKS=str(tasks),
        SLURM_NTASKS_PER_NODE=str(tasks // int(nodes)),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(free_port()),
    )


@pytest.mark.parametrize("script", [*SCRIPTS, "stoppable.sh"])
def test_the_scripts_are_bash(script):
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / "slurm" / script)], check=True)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("code", [0, 1, 2, START_AGAIN, 137])
def test_a_job_that_nobody_stopped_is_not_requeued(script, code, tmp_path):
    python = executable(tmp_path / "python", f'#!/bin/sh\necho "$@" >> {tmp_path}/given\nexit {code}\n')
    assert start_job(script, tmp_path, str(python), ["--config", "a file"]).wait(MINUTE) == code
    assert not (tmp_path / "asked").exists()
    given = (tmp_path / "given").read_text()
    assert given.startswith("cli.py fit --trainer.strategy ddp --ckpt_path auto --trainer.num_nodes 1 ")
    assert "--trainer.devices 1 --config a file" in given


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_the_signal_to_the_job_reaches_every_task(name, tmp_path):
    python = executable(
        tmp_path / "python",
        f"#!/bin/bash\ntrap 'echo $SLURM_PROCID >> {tmp_path}/told; exit {START_AGAIN}' USR1\n"
        f"echo $SLURM_PROCID >> {tmp_path}/ready\nwhile :; do sleep 0.05; done\n",
    )
    job = start_job("multi_node.sbatch", tmp_path, str(python), [], tasks=2)
    ready = tmp_path / "ready"
    while not ready.exists() or len(ready.read_text().split()) < 2:
        assert job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.Signals[name])
    assert job.wait(MINUTE) == START_AGAIN
    assert sorted((tmp_path / "told").read_text().split()) == ["0", "1"]
    asked = tmp_path / "asked"
    if name == "SIGTERM":  # whoever cancels a job does not want it again
        assert not asked.exists()
    else:
        assert asked.read_text() == "requeue 4321\n"


@pytest.mark.ddp
@pytest.mark.slow
def test_a_job_on_two_nodes_is_stopped_and_goes_on(tmp_path):
    flags = [*JOB[1:-2], "--data.batch_size", "8", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "40"]
    job = start_job("multi_node.sbatch", tmp_path, sys.executable, flags, tasks=2)
    metrics = tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt"
    while not metrics.exists():
        assert job.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(MINUTE) == START_AGAIN, (tmp_path / "log").read_text()
    assert (tmp_path / "asked").read_text() == "requeue 4321\n"
    saved = torch.load(metrics, weights_only=True)
    assert 0 < saved["global_step"] < 40 * STEPS

    assert start_job("multi_node.sbatch", tmp_path, sys.executable, flags, tasks=2).wait(3 * MINUTE) == 0
    whole = tmp_path / "whole"
    whole.mkdir()
    assert start_job("multi_node.sbatch", whole, sys.executable, flags, tasks=2).wait(3 * MINUTE) == 0
    assert_same(state(tmp_path, 1), state(whole, 0))
