"""Everything that is worth measuring on an accelerator, in the order of its worth, within a time limit.

    python scripts/benchmark/accelerator.py --path FOLDER --out OUT --seconds 570
    python scripts/benchmark/accelerator.py --path FOLDER --out OUT --only fit peers

FOLDER holds CIFAR-10 as Parquet files. Each measurement is a command of its own that writes a JSON file into OUT, and
gets the time that is left; one that runs out of it is stopped, and what it had written stays.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BF16 = ("--trainer.precision", "bf16-mixed")
SIMCLR = ("configs/cifar10/simclr.yaml", "--data.batch_size", "512", *BF16)


def commands(path: str, out: Path) -> dict[str, list[str]]:
    """Name -> command line, without the interpreter."""
    cuda = ["--device", "cuda"]
    data = ["--data.path", path]
    return {
        "fit": [
            *("scripts/benchmark/fit.py", "--batch-size", "512", "--block", "20"),
            *("--out", str(out / "benchmark-fit-cuda.json"), "--", *BF16),
        ],
        "simclr": [
            *("scripts/reproduce.py", SIMCLR[0], "--name", str(out / "cifar10-simclr-r18-200ep-cuda"), "--"),
            *(*SIMCLR[1:], *data, "--trainer.max_epochs", "200", "--trainer.check_val_every_n_epoch", "20"),
        ],
        "peers": [
            *("scripts/benchmark/peers.py", "--path", path, *cuda, "--images", "50000", "--methods", "SimCLR"),
            *("--rounds", "2", "--batch-size", "512", "--out", str(out / "benchmark-peers-cuda.json")),
        ],
        "parts": ["scripts/benchmark/parts.py", *cuda, "--out", str(out / "benchmark-parts-cuda.json")],
        "large-batch": [
            *("scripts/benchmark/large_batch.py", *cuda, "--backbone", "resnet18"),
            *("--out", str(out / "benchmark-large-batch-cuda.json")),
        ],
        "fast-moco": [
            *("scripts/benchmark/fast_moco.py", *cuda, "--batch-size", "128", "--steps", "10"),
            *("--out", str(out / "benchmark-fast-moco-cuda.json")),
        ],
        "mae": [
            *("scripts/benchmark/mae.py", *cuda, "--batch-size", "256", "--steps", "10"),
            *("--out", str(out / "benchmark-mae-cuda.json")),
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--path", required=True, help="folder of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--only", nargs="+", choices=list(commands("", Path())), help="measurements, default all")
    parser.add_argument("--seconds", type=float, default=570, help="for all of them together")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    chosen = commands(str(Path(options.path).resolve()), out)
    end = time.monotonic() + options.seconds
    for name in options.only or chosen:
        print(f"--- {name}, {end - time.monotonic():.0f} s left", flush=True)
        process = subprocess.Popen([sys.executable, *chosen[name]], cwd=ROOT, start_new_session=True)
        try:
            print(f"--- {name} ended with status {process.wait(max(0.0, end - time.monotonic()))}", flush=True)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it had started
            print(f"--- {name}: out of time", flush=True)


if __name__ == "__main__":
    main()
