"""Two ways of doing a thing, timed in turns: what the machine does meanwhile meets both."""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


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


class Spread(NamedTuple):
    """The ratio of two ways: median, smallest and largest of the rounds."""

    ratio: float
    ratio_min: float
    ratio_max: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.ratio_min:.3f} to {self.ratio_max:.3f})"


def in_turns(
    ways: tuple[Callable[[], None], Callable[[], None]], rounds: int, steps: int, device: str
) -> tuple[float, float, Spread]:
    """Lets two ways take turns, after one turn each to warm up.

    Returns:
        Median seconds a step of each, and the first's over the second's.
    """
    turns = [[seconds(way, steps, device) for way in ways] for _ in range(rounds + 1)][1:]
    ratios = [first / second for first, second in turns]
    first, second = map(statistics.median, zip(*turns, strict=True))
    return first, second, Spread(statistics.median(ratios), min(ratios), max(ratios))


def sgd_step(module: nn.Module, loss: Callable[[], Tensor], device: str) -> Callable[[], None]:
    """Forward, backward and optimiser, in bf16 on CUDA.

    Args:
        module: what is trained.
        loss: makes the scalar.
        device: `cpu` or `cuda`.
    """
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.05, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            scalar = loss()
        optimizer.zero_grad()
        scalar.backward()
        optimizer.step()

    return step


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the flags of every benchmark of this kind.

    Args:
        doc: the script's docstring, whose first line describes it.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The flags as facts of a report, with the device by its name."""
    device = torch.cuda.get_device_name() if options.device == "cuda" else "one thread of the processor"
    return {name: value for name, value in vars(options).items() if name != "out"} | {"device": device}
