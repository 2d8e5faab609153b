"""Runs a configuration; writes what it came to, with commit, hardware, seconds and memory, as a JSON under results/.

python scripts/reproduce.py configs/cifar10/simclr_short.yaml --name cifar10-simclr-short-cpu -- --data.path FOLDER
python scripts/reproduce.py configs/cifar10/simclr.yaml --name cifar10-simclr-r18-30ep -- --data.path FOLDER \
    --trainer.max_epochs 30 --trainer.precision bf16-mixed --trainer.check_val_every_n_epoch 5
"""

import argparse
import csv
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CURVE = ("probe/val_top1", "knn/val_top1", "representation/effective_rank", "representation/feature_std")


def hardware() -> dict[str, Any]:
    """What the run ran on; imports torch, so only after the run."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "accelerator": torch.cuda.get_device_name() if cuda else "none",
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def commit() -> str:
    """The code's revision, with a mark where the tree, measured results aside, differs from it."""
    git = ["git", "-C", str(ROOT)]
    revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    code = [".", ":!results", ":!docs"]
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no", "--", *code], capture_output=True, text=True
    ).stdout
    return revision + (" with changes" if changed.strip() else "")


def curve(metrics: Path) -> list[dict[str, float]]:
    """One row a validation: step and the watchers' values."""
    with metrics.open() as file:
        rows = [row for row in csv.DictReader(file) if any(row.get(name) for name in CURVE)]
    return [{"step": int(row["step"])} | {name: float(row[name]) for name in CURVE if row.get(name)} for row in rows]


def run_to_its_end(arguments: list[str]) -> tuple[int, float]:
    """Exit status of a command, and the peak resident memory in MiB of it and its children."""
    status = subprocess.run(arguments, cwd=ROOT).returncode
    return status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    cut = given.index("--") if "--" in given else len(given)  # argparse takes no words behind it after an option
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [-h] --name NAME config [-- flags of cli.py]",
    )
    parser.add_argument("config", type=Path, help="a YAML under configs/")
    parser.add_argument("--name", required=True, help="results/NAME.json is written")
    options = parser.parse_args(given[:cut])
    further = given[cut + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--config", str(options.config), *further, "--trainer.default_root_dir", folder]
        revision = commit()  # of the code that runs, whatever is edited meanwhile
        started = time.perf_counter()
        status, memory = run_to_its_end([sys.executable, "cli.py", "fit", *flags])
        seconds = time.perf_counter() - started
        if status:
            sys.exit(status)
        run = Path(folder) / "version_0"
        summary = json.loads((run / "summary.json").read_text())
        shown = [flag for before, flag in zip(["", *further], further, strict=False) if before != "--data.path"]
        result = {
            "config": str(options.config),
            "flags": [flag for flag in shown if flag != "--data.path"],
            "commit": revision,
            "hardware": hardware(),
            "seconds": round(seconds, 1),
            "peak_host_memory_mib": round(memory),
            "summary": {k: v for k, v in summary.items() if k not in ("report", "checkpoint", "resume", "metrics")},
            "curve": curve(run / "metrics.csv"),
        }
    path = ROOT / "results" / f"{options.name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
