"""How fast whole training runs are beside those of another library: the same method, network, optimiser and images.

    python scripts/benchmark/peers.py --path FOLDER --only resnet18 --methods SimCLR --batch-size 64 --images 1280
    python scripts/benchmark/peers.py --path FOLDER --only convnet --images 4096
    python scripts/benchmark/peers.py --path FOLDER --device cuda --images 50000 --methods SimCLR --rounds 2

Ours is `cli.py fit` with its defaults (online probe, collapse metrics, report and checkpoints included) and, for
ResNets, channels-last convolutions, as in our recipes. Theirs is written with their public components, the way their
own benchmark does it (`peer_lightly.py`); another library takes part by a file `peer_NAME.py` that trains what it is
handed. Neither side validates. Runs take turns, each in a process of its own; the first epoch of each warms up. The
table shows the medians over the rounds of the images that go through training in a second of the clock, and the
smallest and largest ratio. Without `--path` the images are generated.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere
from scripts.benchmark.epochs import EpochClock, Run, data_config
from scripts.benchmark.report import write_report
from scripts.reproduce import ROOT

PEERS = sorted(file.stem.removeprefix("peer_") for file in Path(__file__).parent.glob("peer_*.py"))
RESNET18: dict[str, Any] = {"name": "resnet18", "small_images": True}
CONVNET: dict[str, Any] = {"name": "convnet", "options": {"width": 2}}


class Case(NamedTuple):
    """A network, and the precision of each side."""

    backbone: dict[str, Any]
    ours: str
    theirs: str
    devices: tuple[str, ...] = ("cpu", "cuda")


CASES = {
    "resnet18": Case(RESNET18, "32-true", "32-true"),  # the network's work dominates
    "resnet18-bf16": Case(RESNET18, "bf16-mixed", "32-true"),  # theirs as published
    "resnet18-both-bf16": Case(RESNET18, "bf16-mixed", "bf16-mixed"),
    "resnet18-half": Case(RESNET18, "bf16-mixed", "16-mixed", devices=("cuda",)),
    "convnet": Case(CONVNET, "32-true", "32-true"),  # so small that the views dominate
}
# What lightly's CIFAR-10 benchmark sets, in our words.
METHODS: dict[str, dict[str, Any]] = {
    "SimCLR": {"temperature": 0.5, "hidden_dim": 512, "out_dim": 128},
    "MoCo": {"temperature": 0.1, "hidden_dim": 512, "out_dim": 128, "queue_size": 4096, "teacher_momentum": 0.99}
    | {"batch_norm": "split:8"},
    "BYOL": {"hidden_dim": 1024, "out_dim": 256, "teacher_momentum": 0.99},
}
SGD = {"optimizer": "sgd", "lr": 0.06, "lr_base_batch": 128, "weight_decay": 5e-4, "options": {"momentum": 0.9}}
SGD |= {"decay_biases": True, "warmup_epochs": 0, "lr_interval": "epoch"}
FACTS = ("images_per_second", "host_mib", "device_mib")  # of a run


@dataclass
class Result:
    """A case's method on both sides: medians over the rounds, and the spread of the ratio of images a second."""

    case: str
    method: str
    ours_images_per_second: float
    theirs_images_per_second: float
    ratio: float
    ratio_min: float
    ratio_max: float
    ours_host_mib: float
    theirs_host_mib: float
    ours_device_mib: float | None
    theirs_device_mib: float | None

    def line(self) -> str:
        """As a line of the table."""
        rates = f"{self.ours_images_per_second:10.0f} {self.theirs_images_per_second:10.0f}"
        spread = f"{self.ratio:.2f} ({self.ratio_min:.2f} to {self.ratio_max:.2f})"
        memory = f"{self.ours_host_mib:.0f} / {self.theirs_host_mib:.0f}"
        if self.ours_device_mib is not None:
            memory += f", on the device {self.ours_device_mib:.0f} / {self.theirs_device_mib:.0f}"
        return f"{f'{self.case}: {self.method}':24} {rates}   {spread:22} {memory}"


def our_config(run: Run) -> dict[str, Any]:
    """The configuration for `cli.py fit`: the defaults, and the clock."""
    callbacks = yaml.safe_load((ROOT / "configs" / "defaults.yaml").read_text())["trainer"]["callbacks"]
    for callback in callbacks:
        if callback["class_path"].endswith("KNNMonitor"):
            callback["init_args"] = {"baselines": False}  # they are measured before the first step
    clock = {"class_path": f"{EpochClock.__module__}.{EpochClock.__name__}", "init_args": {"path": run.clock}}
    layout = {"channels_last": run.backbone == RESNET18}
    model = {"backbone": run.backbone, "optim": SGD, **layout, **METHODS[run.method]}
    return {
        "model": {"class_path": run.method, "init_args": model},
        "data": data_config(run),
        "trainer": {
            "accelerator": "gpu" if run.device == "cuda" else run.device,
            "devices": 1,
            "precision": run.precision,
            "max_epochs": run.epochs,
            "limit_val_batches": 0,
            "default_root_dir": run.folder,
            "callbacks": [*callbacks, clock],
        },
    }


def ours(run: Run) -> list[str]:
    """The command that trains with this project."""
    config = Path(run.folder) / "config.json"
    config.write_text(json.dumps(our_config(run)))
    return [sys.executable, "cli.py", "fit", "--config", str(config)]


def theirs(peer: str) -> Callable[[Run], list[str]]:
    """What makes the command that trains with another library."""
    script = Path(__file__).with_name(f"peer_{peer}.py")
    return lambda run: [sys.executable, str(script), json.dumps(asdict(run))]


def train(command: Callable[[Run], list[str]], run: Run) -> dict[str, Any]:
    """Trains in a process of its own; returns the `FACTS` of the run."""
    with tempfile.TemporaryDirectory() as folder:
        run = replace(run, folder=folder, clock=str(Path(folder) / "clock.json"))
        done = subprocess.run(command(run), cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command(run))} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
        facts = json.loads(Path(run.clock).read_text())
    trained = run.num_images // run.batch_size * run.batch_size
    return facts | {"images_per_second": trained / facts["seconds"]}


def compare(case: str, run: Run, peer: str, rounds: int) -> Result:
    """Lets both sides take turns at a run, each in the case's precision of its own."""
    _, *precisions, _ = CASES[case]
    sides = [(command, replace(run, precision=p)) for command, p in zip((ours, theirs(peer)), precisions, strict=True)]
    turns = [[train(command, own) for command, own in sides] for _ in range(rounds)]
    ratios = [a["images_per_second"] / b["images_per_second"] for a, b in turns]

    def median(side: int, name: str) -> Any:
        values = [turn[side][name] for turn in turns]
        return None if None in values else round(statistics.median(values), 1)

    facts = {f"{name}_{fact}": median(side, fact) for side, name in enumerate(("ours", "theirs")) for fact in FACTS}
    spread = {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    return Result(case, run.method, **facts, **spread)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--path", help="folder of CIFAR-10 (default: generated images)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peer", choices=PEERS, default="lightly", help="the other library")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), help="cases")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--images", type=int, default=4096, help="images an epoch")
    parser.add_argument("--epochs", type=int, default=1, help="epochs that are timed, after the first one")
    parser.add_argument("--batch-size", type=int, default=128, help="images of a step")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--out", type=Path, help="JSON file to write, anew after each method")
    o = parser.parse_args(arguments)
    if o.images < o.batch_size or min(o.epochs, o.rounds) < 1:
        parser.error(f"--images must be at least the batch size, {o.batch_size}, --epochs and --rounds at least 1.")
    path = str(Path(o.path).resolve()) if o.path else None
    chosen = [name for name in o.only if o.device in CASES[name].devices]

    print(f"{'images a second':24} {'ours':>10} {o.peer:>10}   ratio (min to max)     MiB")
    results: list[dict[str, Any]] = []
    for case, method in ((case, method) for case in chosen for method in o.methods):
        backbone, precision, *_ = CASES[case]
        run = Run(method, backbone, precision, o.device, o.batch_size, o.images, 1 + o.epochs, path)
        r = compare(case, run, o.peer, o.rounds)
        print(r.line(), flush=True)
        results.append(asdict(r))
        if o.out:
            _write(o, results)


def _write(o: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    write_report(
        o.out,
        packages=("torch", "torchvision", "pytorch-lightning", o.peer),
        what=f"images a second of training, ours and {o.peer}'s, medians over rounds in which runs take turns; most "
        "memory of the training process and its workers, and allocated on the device",
        device=torch.cuda.get_device_name() if o.device == "cuda" else "processor",
        threads=torch.get_num_threads(),
        data="CIFAR-10" if o.path else "generated",
        **{name: getattr(o, name) for name in ("images", "epochs", "batch_size", "rounds")},
        precisions={name: {"ours": CASES[name].ours, "theirs": CASES[name].theirs} for name in o.only},
        results=results,
    )


if __name__ == "__main__":
    main()
