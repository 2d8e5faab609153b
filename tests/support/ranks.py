"""Runs a function on several gloo ranks of this machine."""

import multiprocessing
import os
import queue
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

# Forked from a server that has imported the slow libraries once and never ran a thread.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "torchvision",
        "pytorch_lightning.cli",
        "methods",
        "datamodules",
        "callbacks",
        "sklearn.datasets",
        "sklearn.manifold",
    ]
)


def _prepare() -> None:
    torch.set_num_threads(1)
    # A loader's workers then are this process's, as in a user's program: the server's would not see it die.
    multiprocessing.set_start_method("fork", force=True)


def _run(rank: int, world_size: int, port: int, function: Callable[..., Any], args: tuple, results: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    _prepare()
    try:
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
        results.put((rank, function(rank, *args), None))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
        raise


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _call(results: Any, function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> None:
    _prepare()
    try:
        results.put((function(*args, **kwargs), None))
    except BaseException:
        results.put((None, traceback.format_exc()))


def in_process(function: Callable[..., Any], *args: Any, timeout: float = 120.0, **kwargs: Any) -> Any:
    """Calls a function in a process of its own; returns its result, or the process's exit code if it died."""
    results = _context.Queue()
    process = _context.Process(target=_call, args=(results, function, args, kwargs))
    process.start()
    waited = 0.0
    while waited < timeout:
        try:
            value, trouble = results.get(timeout=0.1)
            break
        except queue.Empty:
            waited += 0.1
            if not process.is_alive() and results.empty():
                return process.exitcode
    else:
        process.kill()
        raise TimeoutError(f"{function.__name__} took more than {timeout} s")
    process.join()
    assert trouble is None, trouble
    return value


def on_ranks(
    world_size: int, function: Callable[..., Any], *args: Any, timeout: float = 120.0, may_die: bool = False
) -> list[Any]:
    """Calls `function(rank, *args)` on every rank at once.

    Args:
        world_size: number of processes.
        function: defined at the top of a module; returns numpy arrays or plain data.
        args: pickled to every rank.
        timeout: seconds to wait for each result.
        may_die: the ranks are expected to die; nothing is returned.

    Returns:
        What each rank returned, in rank order.
    """
    results = _context.Queue()
    port = free_port()
    processes = [
        _context.Process(target=_run, args=(rank, world_size, port, function, args, results))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        answers = [] if may_die else [results.get(timeout=timeout) for _ in processes]
    finally:
        for process in processes:
            process.join(timeout=timeout if may_die else 10)
            if process.is_alive():
                process.kill()
    for rank, _, trouble in answers:
        assert trouble is None, f"rank {rank} failed:\n{trouble}"
    return [value for _, value, _ in sorted(answers, key=lambda answer: answer[0])]
