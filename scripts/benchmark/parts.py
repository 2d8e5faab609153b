"""How long all that is not the networks' own work takes in a step, and how far that is from what the machine allows.

    python scripts/benchmark/parts.py
    python scripts/benchmark/parts.py --device cuda --out results/benchmark-parts-cuda.json
    python scripts/benchmark/parts.py --backbones resnet18 --only LARS "SGD, foreach"

Teacher, queue, optimisers, probe, kNN and SwAV's assignment run as in training, each on its own. A part's limit is the
time for the memory that it must read and write, at the rate of one large tensor added to another in place, or for its
multiplications, at the rate of a large matrix product in fp32, whichever is longer; both rates are taken anew in every
round. (A copy would not do: a processor reads what it is about to overwrite, and the copy moves a half more than it
seems to.) On a CPU all is the CPU time of one thread, on CUDA the time of the clock. What is small is bound by the
start of its operations, not by memory.
"""

import argparse
import logging
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere
from scripts.benchmark.report import write_report
from scripts.benchmark.step_parts import FP32, PARTS, Part, Sizes, taken
from scripts.benchmark.turns import seconds
from scripts.quiet import logging_from

TURN = 0.1  # seconds that a part runs in each of its turns, at least once
ADDED = 256 * 1024**2  # bytes, far beyond any cache
REPEATS = 4  # of the sum and of the product in a round
SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices that are multiplied
FLOOR = ("LARS", "SGD, foreach")  # the first can hardly be faster than the second, which takes no norms


class Rates(NamedTuple):
    """What the machine can do."""

    moved: float
    """Bytes that it reads or writes in a second."""
    multiplications: float
    """Those of a second, each with an addition, in fp32."""

    def limit(self, part: Part) -> float:
        """Seconds that a part must take, its data in memory."""
        return max(part.moved / self.moved, part.multiplications / self.multiplications)


@dataclass
class Result:
    """A part's time and limit, medians over the rounds, and the ratio's spread."""

    backbone: str
    part: str
    microseconds: float
    limit_microseconds: float
    ratio: float
    ratio_min: float
    ratio_max: float


class Turns(NamedTuple):
    """What the rounds of one part gave."""

    seconds: list[float]
    limits: list[float]


def meter(device: str) -> Callable[[], Rates]:
    """Prepares a large sum and a large product; each call times them again."""
    source = torch.ones(ADDED // FP32, device=device)
    target = torch.zeros_like(source)
    a, b = torch.randn(2, SIDE[device], SIDE[device], device=device)
    product = torch.empty_like(a)
    add = Part(lambda: target.add_(source), moved=3 * ADDED)  # two are read, one is written
    multiply = Part(lambda: torch.mm(a, b, out=product), moved=0, multiplications=SIDE[device] ** 3)

    def measure() -> Rates:
        return Rates(
            add.moved / seconds(add.run, REPEATS, device),
            multiply.multiplications / seconds(multiply.run, REPEATS, device),
        )

    measure()  # what a library sets up once
    return measure


def take_turns(parts: dict[str, Part], measure: Callable[[], Rates], rounds: int, device: str) -> dict[str, Turns]:
    """Rounds in which the machine's rates and all parts are timed, after some calls to warm up."""
    steps = {name: max(1, round(TURN / _warm(part, device))) for name, part in parts.items()}
    turns = {name: Turns([], []) for name in parts}
    for _ in range(rounds):
        rates = measure()
        for name, part in parts.items():
            turns[name].seconds.append(seconds(part.run, steps[name], device))
            turns[name].limits.append(rates.limit(part))
    return turns


def _warm(part: Part, device: str) -> float:
    """Seconds of a call, after two others."""
    seconds(part.run, 2, device)
    return seconds(part.run, 1, device)


def results(backbone: str, turns: dict[str, Turns]) -> Iterator[Result]:
    """The parts in figures."""
    for name, (took, limits) in turns.items():
        microseconds, limit = statistics.median(took) * 1e6, statistics.median(limits) * 1e6
        yield Result(backbone, name, microseconds, limit, *_spread(took, limits))


def _spread(took: list[float], of: list[float]) -> tuple[float, float, float]:
    """Median, smallest and largest ratio over the rounds."""
    ratios = [a / b for a, b in zip(took, of, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50"], help="whose sizes are taken")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help="parts")
    parser.add_argument("--batch-size", type=int, default=256, help="images of a training step")
    parser.add_argument("--bank-size", type=int, default=50_000, help="images among which neighbours are sought")
    parser.add_argument("--queries", type=int, default=512, help="images of a validation batch")
    parser.add_argument("--prototypes", type=int, default=3000, help="SwAV's clusters")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each part")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    o = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = Sizes(o.batch_size, o.bank_size, o.queries, o.prototypes)

    measure, found, floors = meter(o.device), [], {}
    print(f"{'microseconds':30} {'measured':>12} {'limit':>12}   ratio (min to max)")
    for backbone in o.backbones:
        with logging_from(logging.WARNING):  # not what was built, nor with what
            step = taken(backbone, sizes, o.device)
        turns = take_turns({name: PARTS[name](step) for name in o.only}, measure, o.rounds, o.device)
        for r in results(backbone, turns):
            print(f"{f'{backbone}: {r.part}':30} {r.microseconds:12.1f} {r.limit_microseconds:12.1f} "
                  f"{r.ratio:8.2f} ({r.ratio_min:.2f} to {r.ratio_max:.2f})")  # fmt: skip
            found.append(asdict(r))
        if set(FLOOR) <= set(turns):
            lars, sgd = (turns[name].seconds for name in FLOOR)
            ratio, low, high = _spread(lars, sgd)
            floors[backbone] = {"ratio": ratio, "ratio_min": low, "ratio_max": high}
            print(f"{backbone}: {FLOOR[0]} over {FLOOR[1]}: {ratio:.2f} ({low:.2f} to {high:.2f})")
    if o.out:
        rates = measure()
        write_report(
            o.out,
            packages=("torch", "pytorch-lightning"),
            what="microseconds of the parts of a training step beside the networks, medians over rounds in which they "
            "take turns with the sum and the matrix product that set their limits",
            device=torch.cuda.get_device_name() if o.device == "cuda" else "one thread of the processor",
            rounds=o.rounds,
            sizes=sizes._asdict(),
            gigabytes_a_second=round(rates.moved / 1e9, 2),
            gigamultiplications_a_second=round(rates.multiplications / 1e9, 1),
            results=found,
            lars_over_sgd_foreach=floors,
        )


if __name__ == "__main__":
    main()
