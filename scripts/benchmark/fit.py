"""How much of a run is its networks' own work: images/s of cli.py fit over those of bare training steps.

    python scripts/benchmark/fit.py --out results/benchmark-fit-cpu.json
    python scripts/benchmark/fit.py --only SimCLR --batch-size 512 -- --trainer.precision bf16-mixed

Each case is a run of its own with the recipe of configs/cifar10 and all that the defaults watch and log, on random
pixels. Inside it, blocks of training steps and of bare steps (`scripts/benchmark/bare.py`) take turns; the table shows
the median of their ratios with its spread, and where the rest of a step goes, by the host's clock.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere
from scripts.benchmark.report import write_report
from scripts.reproduce import ROOT, hardware


class Case(NamedTuple):
    """A recipe of configs/cifar10, flags beside it, and by what its batch is smaller than the others'."""

    config: str
    flags: tuple[str, ...] = ()
    divisor: int = 1


CASES = {
    "SimCLR": Case("simclr"),
    "MoCo v2": Case("moco_v2"),
    "BYOL": Case("byol", divisor=2),
    "Fast-MoCo": Case("fast_moco", divisor=2),
    "SwAV 2 + 6 crops": Case("swav", ("--data.views", "swav"), divisor=2),
}
NETWORKS = ("forward", "backward", "optimiser step")


def measure(config: str, batch_size: int, block: int, rounds: int, flags: list[str]) -> dict[str, Any]:
    """Runs a case to its end in a process of its own."""
    warmup = 3
    images = batch_size * (block * rounds + warmup + 1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "turns.json"
        turns = {
            "class_path": "scripts.benchmark.bare.BareTurns",
            "init_args": {"out": str(out), "block": block, "rounds": rounds, "warmup": warmup},
        }
        data = {
            "class_path": "scripts.benchmark.bare.NoiseImages",
            "init_args": {"num_images": images, "batch_size": batch_size},
        }
        command = [
            *(sys.executable, "cli.py", "fit", "--config", f"configs/cifar10/{config}.yaml"),
            *("--data", json.dumps(data), "--trainer.callbacks+", json.dumps(turns)),
            *("--trainer.default_root_dir", folder, "--trainer.max_epochs", "1", "--trainer.limit_val_batches", "0"),
            *flags,
        ]
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if ended.returncode:
            sys.exit(ended.stderr)
        return json.loads(out.read_text())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), help="cases to run")
    parser.add_argument("--batch-size", type=int, default=64, help="images in a step, half for the heavier methods")
    parser.add_argument("--block", type=int, default=5, help="steps of a block")
    parser.add_argument("--rounds", type=int, default=7, help="blocks of each kind")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("flags", nargs="*", help="further flags of cli.py, after --")
    options = parser.parse_args(arguments)
    print(f"{'':18} {'cli.py fit':>12} {'bare':>12}   efficiency (min to max)   largest other shares of a step")
    results = []
    for case in options.only:
        config, flags, divisor = CASES[case]
        batch_size = max(2, options.batch_size // divisor)
        found = measure(config, batch_size, options.block, options.rounds, [*flags, *options.flags])
        spent = found["milliseconds_a_step"]
        others = sorted((name for name in spent if name not in NETWORKS), key=lambda name: -spent[name])[:4]
        whole = sum(spent.values())
        print(
            f"{case:18} {found['fit_images_per_s']:8.1f} im/s {found['bare_images_per_s']:7.1f} im/s   "
            f"{found['efficiency']:5.3f} ({found['efficiency_min']:.3f} to {found['efficiency_max']:.3f})   "
            + ", ".join(f"{name} {spent[name] / whole:.1%}" for name in others),
            flush=True,
        )
        results.append({"case": case, "config": f"configs/cifar10/{config}.yaml", "flags": flags} | found)
        if options.out:  # after each case, since the next may be cut short
            write_report(
                options.out,
                packages=("torch", "pytorch-lightning"),
                what="images/s of cli.py fit over those of forward, backward and optimiser step of the same networks "
                "on ready views; medians over blocks in turns",
                hardware=hardware(),
                flags=options.flags,
                results=results,
            )


if __name__ == "__main__":
    main()
