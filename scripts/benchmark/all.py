"""All measurements of speed and memory, one after the other, each with its table and its JSON file.

    python scripts/benchmark/all.py
    python scripts/benchmark/all.py --device cuda --path FOLDER --out OUT --seconds 570
    python scripts/benchmark/all.py --only fit views

FOLDER holds CIFAR-10 as Parquet files; without it, whole runs train on generated images. Each measurement is a command
of its own, which is shown, and gets the time that is left; one that runs out of it is stopped, and what it had written
stays. On an accelerator they come in the order of their worth, and `--only simclr` trains SimCLR for 200 epochs, or as
long as nine minutes let it. Exit status 1 if any of them did not come to its end.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent.relative_to(ROOT)
BF16 = "--trainer.precision bf16-mixed"
SMALL_VIT = "--backbone timm/vit_tiny_patch16_224 --image-size 32 --patch-size 4 --batch-size 64"
CPU = {  # name of the file -> script and flags
    "fit": "fit.py --batch-size 256 --block 1 --rounds 15",
    "views": "views.py --rounds 7",
    "peers-resnet18": "peers.py --only resnet18 resnet18-bf16 resnet18-both-bf16 --methods SimCLR --batch-size 64 "
    "--images 1280",
    "peers-convnet": "peers.py --only convnet --images 4096",
    "parts": "parts.py",
    "large-batch": "large_batch.py",
    "fast-moco": "fast_moco.py",
    "fast-moco-32px": "fast_moco.py --backbone resnet18 --image-size 32 --batch-size 64",
    "mae": "mae.py",
    "mae-32px": f"mae.py {SMALL_VIT}",
}
CUDA = {
    "fit": "fit.py --batch-size 512 --block 20",
    "fit-channels-last": "fit.py --batch-size 512 --block 20 --only SimCLR -- --model.channels_last true",
    "fit-compile": "fit.py --batch-size 512 --block 20 --only SimCLR -- --model.compile true",
    "peers": "peers.py --images 50000 --methods SimCLR --rounds 2 --batch-size 512",
    "parts": "parts.py",
    "large-batch": "large_batch.py --backbone resnet18",
    "fast-moco": "fast_moco.py --batch-size 128 --steps 10",
    "mae": "mae.py --batch-size 256 --steps 10",
}
DONE = "ended with status 0"
LEARNING = "simclr"  # how good a representation ten minutes give: takes them all, hence only by name
LEARNING_FLAGS = "--data.batch_size 512 --trainer.max_epochs 200 --trainer.check_val_every_n_epoch 20 "
LEARNING_FLAGS += f"--trainer.max_time 00:00:09:00 {BF16}"


def commands(device: str, path: str | None, out: Path) -> dict[str, list[str]]:
    """Name -> command line, without the interpreter.

    Args:
        device: `cpu` or `cuda`.
        path: folder of CIFAR-10.
        out: folder of the JSON files.
    """
    made = {}
    for name, told in (CUDA if device == "cuda" else CPU).items():
        script, *flags = told.split()
        own, beyond = (flags[: flags.index("--")], flags[flags.index("--") :]) if "--" in flags else (flags, [])
        if script == "peers.py" and path:
            own += ["--path", path]
        if script == "fit.py" and device == "cuda":
            beyond = [*(beyond or ["--"]), *BF16.split()]
        elif script not in ("fit.py", "views.py"):
            own += ["--device", device]
        made[name] = [str(FOLDER / script), *own, "--out", str(out / f"benchmark-{name}-{device}.json"), *beyond]
    if device == "cuda" and path:
        made[LEARNING] = ["scripts/reproduce.py", "configs/cifar10/simclr.yaml", "--name"]
        made[LEARNING] += [str(out / "cifar10-simclr-r18-cuda"), "--", *LEARNING_FLAGS.split(), "--data.path", path]
    return made


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--path", help="folder of CIFAR-10 (default: generated images)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of the JSON files, default results")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measurements by name, default all")
    parser.add_argument("--seconds", type=float, help="for all of them together, default as long as it takes")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    chosen = commands(options.device, str(Path(options.path).resolve()) if options.path else None, out)
    if unknown := set(options.only or ()) - set(chosen):
        parser.error(f"--only {' '.join(sorted(unknown))}: on {options.device} there are {', '.join(chosen)}.")
    out.mkdir(parents=True, exist_ok=True)
    end = None if options.seconds is None else time.monotonic() + options.seconds
    complete = True
    for name in options.only or (name for name in chosen if name != LEARNING):
        left = None if end is None else end - time.monotonic()
        told = "" if left is None else f", {left:.0f} s left"
        print(f"--- {name}{told}: python {shlex.join(chosen[name])}", flush=True)
        how = "not begun, out of time" if left is not None and left <= 0 else ended(chosen[name], left)
        print(f"--- {name} {how}", flush=True)
        complete &= how == DONE
    sys.exit(0 if complete else 1)


def ended(command: list[str], seconds: float | None) -> str:
    """Carries a command out; how that ended. What runs out of time is stopped with all that it had started."""
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, start_new_session=True)
    try:
        return f"ended with status {process.wait(seconds)}"
    except subprocess.TimeoutExpired:
        return "ran out of time"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    main()
