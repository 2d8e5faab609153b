"""Trains every method on the same few images for the same few epochs on a CPU, and compares their kNN accuracy.

python scripts/equal_budget.py --data.path FOLDER                 # all methods, about half an hour on two cores
python scripts/equal_budget.py --data.path FOLDER --only MoCo-v2  # one, merged into the results that are there

Writes results/equal-budget-cpu.json and, from it, the table in docs/results.md. Far from converged: it shows that each
method learns something that the untrained network does not know, not which method is best.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.reproduce import ROOT, commit, hardware, run_to_its_end

RESULTS = ROOT / "results" / "equal-budget-cpu.json"
PAGE = ROOT / "docs" / "results.md"
BEGIN, END = "<!-- equal budget: begin -->", "<!-- equal budget: end -->"

CONFIG = "configs/cifar10/equal_budget.yaml"
ADAM: dict[str, Any] = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 1e-4}
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 1e-4, "options": "{momentum: 0.9}"}
HEADS = {"hidden_dim": 256, "out_dim": 128}
QUEUE = {"queue_size": 2048}

RUNS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # row -> method, its arguments, its optimiser
    "SimCLR": ("SimCLR", HEADS | {"temperature": 0.2}, ADAM),
    "MoCo-v1": ("MoCo", QUEUE | {"mlp_head": "false", "temperature": 0.1, "teacher_momentum": 0.99}, ADAM),
    "MoCo-v2": ("MoCo", HEADS | QUEUE | {"temperature": 0.2, "teacher_momentum": 0.99}, ADAM),
    "MoCo-v3": ("MoCoV3", HEADS | {"temperature": 0.2, "teacher_momentum": 0.99}, ADAM),
    "BYOL": ("BYOL", HEADS | {"teacher_momentum": 0.9}, ADAM),  # 390 steps: the target has to come along
    "SimSiam": ("SimSiam", {"hidden_dim": 256, "out_dim": 256, "predictor_hidden_dim": 64}, ADAM),
    "NNCLR": ("NNCLR", HEADS | QUEUE | {"predictor_hidden_dim": 256, "temperature": 0.2}, ADAM),
    "AdCo": ("AdCo", HEADS | {"num_negatives": 2048, "teacher_momentum": 0.99}, SGD),
    "Fast-MoCo": (
        "FastMoCo",
        {"hidden_dim": 256, "out_dim": 128, "predictor_hidden_dim": 256, "temperature": 0.2},
        ADAM,
    ),
    "ReLIC": ("ReLIC", HEADS | {"temperature": 0.2, "teacher_momentum": 0.99}, ADAM),
    "ReLICv2": ("ReLICv2", HEADS | {"temperature": 0.2, "teacher_momentum": 0.99}, ADAM),
    "DetCo": ("DetCo", {"out_dim": 128, "teacher_momentum": 0.99} | QUEUE, ADAM),
}


def flags(method: str, arguments: dict[str, Any], optim: dict[str, Any]) -> list[str]:
    """The command line of one run, without the data's place."""
    pairs = {f"--model.{name}": value for name, value in arguments.items()}
    pairs |= {f"--model.optim.{name}": value for name, value in optim.items()}
    return ["--model", method, *(part for name, value in pairs.items() for part in (name, str(value)))]


def train(row: str, data: list[str]) -> dict[str, Any]:
    """Runs one method to its end and returns what it came to."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = flags(*RUNS[row])
        # The method first: another class keeps only the settings that it knows by the same names.
        command = [sys.executable, "cli.py", "fit", "--config", CONFIG, *chosen, *data]
        revision, started = commit(), time.perf_counter()  # of the code that runs, whatever is edited meanwhile
        status, _ = run_to_its_end([*command, "--trainer.default_root_dir", folder])
        if status:
            sys.exit(f"{row} ended with status {status}.")
        summary = json.loads((Path(folder) / "version_0" / "summary.json").read_text())
    wanted = ("epochs", "step", "knn_top1", "probe_top1", "untrained_top1", "pixels_top1", "protocol", "verdict")
    seconds = round(time.perf_counter() - started, 1)
    facts = {"flags": chosen, "commit": revision, "hardware": hardware(), "seconds": seconds}
    return facts | {name: summary[name] for name in wanted}


def table(results: dict[str, Any]) -> str:
    """The rows as Markdown, in the order of `RUNS`."""
    lines = ["| Method | kNN % | untrained % | gain | probe % | verdict |", "|---|---|---|---|---|---|"]
    for row in (results["rows"][name] | {"name": name} for name in RUNS if name in results["rows"]):
        knn, untrained, probe = (100 * row[name] for name in ("knn_top1", "untrained_top1", "probe_top1"))
        gain = f"{knn - untrained:+.1f}"
        lines.append(f"| {row['name']} | {knn:.1f} | {untrained:.1f} | {gain} | {probe:.1f} | {row['verdict']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.path", dest="path", help="folder of CIFAR-10; by default PARALLAX_DATA says")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS), help="rows to run")
    parser.add_argument(
        "--masks",
        type=Path,
        help="ReLICv2's masks (scripts/precompute_saliency.py), else no background goes",
    )
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    for row in options.only:
        data = ["--data.path", options.path] if options.path else []
        if row == "ReLICv2":
            data += ["--data.masks", str(options.masks)] if options.masks else ["--data.views", "relicv2_no_masks"]
        results["rows"][row] = train(row, data)
        results["config"] = CONFIG
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
        write_page(results)
    print(table(results))


def write_page(results: dict[str, Any]) -> None:
    """Replaces the table between the page's two marks."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
