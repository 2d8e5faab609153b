"""A small run that gets signals at chosen moments, on ranks that are processes as a cluster starts them."""

import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities import rank_zero_only

from tests.support.commands import ROOT, _run
from tests.support.ranks import _context, free_port
from tests.support.training import arrays

JOB = shlex.split(
    "fit --model MoCo --model.backbone.name convnet --model.backbone.in_channels 1 --model.queue_size 48 "
    "--model.backbone.options '{width: 4}' --data Digits --data.max_train_images 64 --data.max_val_images 32 "
    "--data.batch_size 16 --data.eval_batch_size 16 --trainer.max_epochs 3 --trainer.log_every_n_steps 1 "
    "--trainer.accelerator cpu --trainer.enable_progress_bar false --ckpt_path auto"
)
STEPS = 4  # of an epoch; its validation has 2 batches
DDP = [*JOB, "--data.batch_size", "8", "--trainer.strategy", "ddp"]
TWO = [*DDP, "--trainer.devices", "2"]
OF_TIME = ("ModelCheckpoint", "RunReport", "ProgressBar")  # keep clocks and paths
HOOKS = [
    *("on_fit_start", "on_train_start", "on_train_batch_start", "on_train_batch_end"),
    *("on_validation_batch_start", "on_validation_batch_end", "on_validation_end", "on_train_end"),
]


class SignalAt(Callback):
    """Sends a signal to its own process, as a cluster would, when a hook is called for the `count`-th time."""

    def __init__(self, hook: str, count: int = 1, name: str = "SIGTERM", rank: int = 0, to: str = "process") -> None:
        """
        Args:
            hook: one of `HOOKS`.
            count: which call.
            name: of the signal.
            rank: the one that gets it.
            to: `process`; `twice`, after more than a second again; `group`, also to the loader's workers.
        """
        self.hook, self.left, self.signal, self.rank, self.to = hook, count, signal.Signals[name], rank, to

    def setup(self, *_: Any, **__: Any) -> None:
        if self.to == "group":
            os.setpgid(0, 0)

    def called(self, hook: str, trainer: Trainer) -> None:
        if hook != self.hook or trainer.global_rank != self.rank:
            return
        self.left -= 1
        if self.left:
            return
        if self.to == "group":
            os.killpg(0, self.signal)
            return
        os.kill(os.getpid(), self.signal)
        if self.to == "twice":
            time.sleep(1.2)
            os.kill(os.getpid(), self.signal)


class NoRoom(Callback):
    """The disk is full when a checkpoint is made."""

    def on_save_checkpoint(self, *_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _hook(name: str) -> Any:
    return lambda self, trainer, *_, **__: self.called(name, trainer)


for _name in HOOKS:
    setattr(SignalAt, _name, _hook(_name))


def _rank(arguments: list[str], folder: str, environment: dict[str, str], log: str) -> None:
    rank_zero_only.rank = int(environment["RANK"])  # Lightning asks the environment when it is imported, so before
    code = _run("cli.py", arguments, folder, environment, log)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def start_ranks(
    arguments: list[str], folder: Path, environments: list[dict[str, str]]
) -> list[tuple[BaseProcess, Path]]:
    """`python cli.py ARGUMENTS` once for each environment; the processes and where each writes its output."""
    started = []
    for rank, environment in enumerate(environments):
        log = folder / f".output{rank}"
        process = _context.Process(target=_rank, args=(arguments, str(folder), environment, str(log)))
        process.start()
        started.append((process, log))
    return started


def finish(started: list[tuple[BaseProcess, Path]], timeout: float = 90) -> tuple[list[int | None], list[str]]:
    """Waits for all; their exit statuses and what they printed. None for one that did not end in time."""
    end = time.monotonic() + timeout
    for process, _ in started:
        process.join(max(0.1, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
            print(f"{process} did not end in {timeout} s")
    return [process.exitcode for process, _ in started], [log.read_text() for _, log in started]


def torchrun_environments(ranks: int, nodes: int = 1) -> list[dict[str, str]]:
    """What torchrun tells each of its ranks."""
    port, here = free_port(), ranks // nodes
    return [
        {
            **{"RANK": str(rank), "LOCAL_RANK": str(rank % here), "GROUP_RANK": str(rank // here)},
            **{"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(here), "TORCHELASTIC_RUN_ID": "tests"},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
        }
        for rank in range(ranks)
    ]


def signalled(hook: str, count: int = 1, **more: Any) -> list[str]:
    """Flags of a run that gets a signal."""
    values = {"hook": hook, "count": count, **more}
    given = [(f"--trainer.callbacks.{name}", str(value)) for name, value in values.items()]
    return ["--trainer.callbacks+=tests.support.signalling.SignalAt", *(part for pair in given for part in pair)]


def state(folder: Path, version: int) -> dict[str, Any]:
    """Everything that a run's last checkpoint holds, but times and paths."""
    saved = torch.load(folder / f"runs/version_{version}/checkpoints/last.ckpt", weights_only=True)
    kept = {name: value for name, value in saved["callbacks"].items() if not name.startswith(OF_TIME)}
    return arrays({**saved, "callbacks": kept, "plan": None}, str(folder))


def run_program(arguments: list[str], folder: Path, log: Path, **environment: str) -> subprocess.Popen:
    """A program of its own, with what it starts, in a session of its own."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    with log.open("w") as output:
        return subprocess.Popen(
            arguments, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
