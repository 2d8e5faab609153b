"""Several ranks and machines, played by processes of this one: torchrun, and ranks that die."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.commands import ROOT, cli
from tests.support.ranks import free_port
from tests.support.signalling import (
    DDP,
    JOB,
    STEPS,
    TWO,
    finish,
    run_program,
    signalled,
    start_ranks,
    state,
    torchrun_environments,
)

MINUTE = 60.0


# Ranks that die.


@pytest.mark.ddp
@pytest.mark.process
@pytest.mark.parametrize("dead", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_the_others_end_and_name_the_rank_that_died(dead, tmp_path):
    told = [*TWO, *signalled("on_train_batch_start", STEPS + 2, name="SIGKILL", rank=dead)]
    began = time.monotonic()
    codes, texts = finish(start_ranks(told, tmp_path, torchrun_environments(2)))
    assert time.monotonic() - began < MINUTE
    assert codes[dead] == -signal.SIGKILL
    assert codes[1 - dead] == 1
    assert f"error: rank {dead} of 2" in texts[1 - dead]
    assert "--ckpt_path auto" in texts[1 - dead]
    assert "Traceback" not in texts[1 - dead]

    codes, texts = finish(start_ranks(TWO, tmp_path, torchrun_environments(2)))
    assert codes == [0, 0], texts
    assert "Resuming from" in texts[0]


def _stuck(rank: int, world_size: int, port: int, silence: float) -> None:
    """Rank 0 waits, as for a device whose exchange never ends; rank 1 leaves without a word."""
    import torch.distributed as dist

    from callbacks import lookout, rank_watch

    rank_watch.INTERVAL, rank_watch.SILENCE, lookout.NOTICE = 0.1, silence, 0.1
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    watch = rank_watch._Watch(rank, world_size, [])
    dist.barrier()
    watch.start()
    time.sleep(silence * (0.5 if rank else 1.0))  # alive for longer than a sign of life takes
    if rank == 1:
        os._exit(7)
    time.sleep(MINUTE)


@pytest.mark.ddp
def test_a_rank_that_waits_for_a_dead_one_is_ended():
    from tests.support.ranks import _context

    port = free_port()
    ranks = [_context.Process(target=_stuck, args=(rank, 2, port, 1.0)) for rank in range(2)]
    began = time.monotonic()
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(MINUTE)
    assert [rank.exitcode for rank in ranks] == [1, 7]
    assert time.monotonic() - began < MINUTE / 2


def _watching(rank: int, port: int, silence: float, begun: Any) -> None:
    """Both ranks work on without an exchange."""
    import torch.distributed as dist

    from callbacks import lookout, rank_watch

    rank_watch.INTERVAL, rank_watch.SILENCE, lookout.NOTICE = 0.1, silence, 0.1
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    watch = rank_watch._Watch(rank, 2, [])
    dist.barrier()
    watch.start()
    begun.release()
    time.sleep(MINUTE)


@pytest.mark.ddp
def test_a_rank_whose_store_does_not_answer_is_ended():
    """As where the machine of rank 0, which keeps it, has lost its network."""
    from tests.support.ranks import _context

    port, begun = free_port(), _context.Semaphore(0)
    held, other = (_context.Process(target=_watching, args=(rank, port, 2.0, begun)) for rank in range(2))
    for rank in (held, other):
        rank.start()
    assert begun.acquire(timeout=MINUTE) and begun.acquire(timeout=MINUTE)
    os.kill(held.pid or 0, signal.SIGSTOP)
    try:
        other.join(MINUTE / 2)
        assert other.exitcode == 1
    finally:
        os.kill(held.pid or 0, signal.SIGKILL)
        other.kill()


# torchrun.


def torchrun(node: int, nodes: int, port: int, arguments: list[str], folder: Path) -> tuple[subprocess.Popen, Path]:
    """The launcher of one of several machines with a rank each."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc-per-node", "1"]
    place = ["--node-rank", str(node), "--master-addr", "127.0.0.1", "--master-port", str(port)]
    log = folder / f"node{node}"
    command = [*launcher, *place, str(ROOT / "cli.py"), *arguments, "--trainer.num_nodes", str(nodes)]
    return run_program(command, folder, log), log


def on_two_nodes(arguments: list[str], folder: Path) -> tuple[list[int], list[str]]:
    """Exit statuses and outputs of two launchers."""
    port = free_port()
    nodes = [torchrun(node, 2, port, [*arguments, "--trainer.devices", "1"], folder) for node in range(2)]
    codes = [run.wait(4 * MINUTE) for run, _ in nodes]
    return codes, [log.read_text() for _, log in nodes]


@pytest.mark.ddp
@pytest.mark.slow
def test_two_nodes_of_torchrun_equal_one_process(tmp_path):
    exact = ["--trainer.precision", "64-true", "--model.batch_norm", "sync"]
    (tmp_path / "one").mkdir()
    one = cli(*JOB, *exact, folder=tmp_path / "one")
    assert one.code == 0, one.text
    codes, texts = on_two_nodes([*DDP, *exact], tmp_path)
    assert codes == [0, 0], texts

    expected, actual = state(tmp_path / "one", 0), state(tmp_path, 0)
    weights = [path for path in expected if path.startswith("/state_dict/")]
    assert any("queue" in path for path in weights)
    for path in weights:
        np.testing.assert_allclose(actual[path], expected[path], rtol=1e-6, atol=1e-9, err_msg=path)


@pytest.mark.ddp
@pytest.mark.slow
def test_a_node_of_torchrun_that_dies_ends_the_other(tmp_path):
    told = [*DDP, *signalled("on_train_batch_start", STEPS + 2, name="SIGKILL", rank=1)]
    codes, texts = on_two_nodes(told, tmp_path)
    assert codes[0] != 0
    assert codes[1] != 0
    assert "error: rank 1 of 2" in texts[0]
    codes, texts = on_two_nodes(DDP, tmp_path)
    assert codes == [0, 0], texts
    assert "Resuming from" in texts[0]
