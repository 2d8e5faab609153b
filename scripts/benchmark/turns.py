"""Timing of steps that take turns."""

import time
from collections.abc import Callable

import torch


def seconds(step: Callable[[], None], steps: int, device: str) -> float:
    """Seconds a step: the CPU time of this thread's process, or on CUDA the time of the clock.

    Args:
        step: what is timed.
        steps: how often it runs.
        device: `cpu` or `cuda`.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / steps
