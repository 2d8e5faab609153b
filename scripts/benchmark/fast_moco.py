"""How much longer a training step of Fast-MoCo takes than one of MoCo v3 on the same images, side by side in one run.

    python scripts/benchmark/fast_moco.py
    python scripts/benchmark/fast_moco.py --device cuda --batch-size 128 --steps 20
    python scripts/benchmark/fast_moco.py --backbone resnet18 --image-size 32 --batch-size 64

Forward, backward, optimiser and teacher; the two take turns for several rounds. On a CPU it is the CPU time of one
thread, on CUDA the time of the clock, in bf16 and channels-last. The table shows the medians over the rounds, and the
smallest and largest ratio.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere
from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.contrastive import ContrastiveModule
from methods.fast_moco import FastMoCo
from methods.moco_v3 import MoCoV3
from methods.modules import Teacher
from scripts.benchmark.report import write_report
from scripts.benchmark.turns import Spread, in_turns, parser_of, settings, sgd_step


@dataclass
class Result:
    """Seconds a step of one case: medians over the rounds, and the ratio's spread."""

    case: str
    fast_moco: float
    moco_v3: float
    ratio: float
    ratio_min: float
    ratio_max: float


class Case(NamedTuple):
    """What is compared."""

    name: str
    fast_moco: ContrastiveModule
    moco_v3: ContrastiveModule


def cases(backbone: BackboneConfig) -> Iterator[Case]:
    """The methods as published, and with the same heads."""
    yield Case("each with its paper's heads", FastMoCo(backbone=backbone), MoCoV3(backbone=backbone))
    fast, moco = FastMoCo(backbone=backbone), MoCoV3(backbone=backbone)
    moco.projector, moco.predictor = copy.deepcopy(fast.projector), copy.deepcopy(fast.predictor)
    moco.teacher = Teacher(moco.backbone, moco.projector)
    yield Case("both with Fast-MoCo's heads", fast, moco)


def training(module: ContrastiveModule, views: Views) -> Callable[[], None]:
    """One training step, as the trainer and its callbacks take it."""
    device = views.label.device.type
    module.to(device=device, memory_format=torch.channels_last if device == "cuda" else torch.preserve_format)
    optimise = sgd_step(module, lambda: module.step(views).loss, device)

    def step() -> None:
        optimise()
        with torch.no_grad():
            for pair in module.ema_pairs():
                teachers, students = pair.parameters()
                torch._foreach_lerp_(teachers, students, 1 - pair.momentum)  # pyright: ignore[reportCallIssue, reportArgumentType]

    return step


def compare(case: Case, views: Views, rounds: int, steps: int) -> Result:
    """Lets both take turns, after one turn each to warm up."""
    ways = (training(case.fast_moco, views), training(case.moco_v3, views))
    fast, moco, spread = in_turns(ways, rounds, steps, views.label.device.type)
    return Result(case.name, fast, moco, *spread)


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--backbone", default="resnet50", help="name of a backbone")
    parser.add_argument(
        "--image-size", type=int, default=224, help="side in pixels; up to 64 with the small-image stem"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="images in a step, two views of each")
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    B, side = options.batch_size, options.image_size
    index = torch.arange(B, device=options.device)
    views = Views([torch.randn(B, 3, side, side, device=options.device) for _ in range(2)], index, index)

    small = side <= 64 and options.backbone.startswith("resnet")
    print(f"{'seconds a step':28} {'Fast-MoCo':>10} {'MoCo v3':>10}   ratio (min to max)")
    results = []
    for case in cases(BackboneConfig(options.backbone, small_images=small)):
        result = compare(case, views, options.rounds, options.steps)
        print(
            f"{result.case:28} {result.fast_moco:10.4f} {result.moco_v3:10.4f} "
            f"  {Spread(result.ratio, result.ratio_min, result.ratio_max)}"
        )
        results.append(asdict(result))
    if options.out:
        write_report(
            options.out,
            packages=("torch", "torchvision"),
            what="seconds of a training step, medians over rounds in which Fast-MoCo and MoCo v3 take turns",
            **settings(options),
            results=results,
        )


if __name__ == "__main__":
    main()
