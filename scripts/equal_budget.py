"""Trains every method on the same few images for the same few epochs on a CPU, and compares their kNN accuracy.

python scripts/equal_budget.py --data.path FOLDER                 # all methods, about half an hour on two cores
python scripts/equal_budget.py --data.path FOLDER --only MoCo-v2  # one, merged into the results that are there

Writes results/equal-budget-cpu.json, which scripts/result_tables.py makes a table of docs/results.md. Far from
converged: it shows that each method learns something that the untrained network does not know, not which is best.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.reproduce import ROOT, commit, hardware, run_to_its_end

RESULTS = ROOT / "results" / "equal-budget-cpu.json"

CONFIG = "configs/cifar10/equal_budget.yaml"
ADAM: dict[str, Any] = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 1e-4}
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 1e-4, "options": "{momentum: 0.9}"}
MAE_ADAM: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "options": "{betas: [0.9, 0.95]}"}
HEADS = {"hidden_dim": 256, "out_dim": 128}
PREDICTOR = {"predictor_hidden_dim": 256}
QUEUE = {"queue_size": 2048}
TEACHER = {"teacher_momentum": 0.99}
SHARP = {"temperature": 0.2}
DINO_HEAD = {"hidden_dim": 256, "bottleneck_dim": 64, "num_prototypes": 1024, "head_batch_norm": "true"}
SMALL_VIT = "{img_size: 32, patch_size: 4, embed_dim: 128, depth: 4, num_heads: 4, global_pool: avg, fc_norm: false}"
MAE_NETWORKS = {
    "backbone": f"{{name: timm/vit_tiny_patch16_224, options: {SMALL_VIT}}}",
    **{"decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 4},
}


@dataclass(frozen=True)
class Row:
    """One run: a method, its arguments, its optimiser, and flags of its own."""

    method: str
    arguments: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=lambda: ADAM)
    others: dict[str, Any] = field(default_factory=dict)

    def flags(self) -> list[str]:
        """The command line, without the data's place."""
        pairs = {f"--model.{name}": value for name, value in self.arguments.items()}
        pairs |= {f"--model.optim.{name}": value for name, value in self.optim.items()}
        pairs |= {f"--{name}": value for name, value in self.others.items()}
        return ["--model", self.method, *(part for name, value in pairs.items() for part in (name, str(value)))]


RUNS: dict[str, Row] = {
    "SimCLR": Row("SimCLR", HEADS | SHARP),
    "MoCo-v1": Row("MoCo", QUEUE | TEACHER | {"mlp_head": "false", "temperature": 0.1}),
    "MoCo-v2": Row("MoCo", HEADS | QUEUE | SHARP | TEACHER),
    "MoCo-v3": Row("MoCoV3", HEADS | SHARP | TEACHER),
    "BYOL": Row("BYOL", HEADS | {"teacher_momentum": 0.9}),  # 390 steps: the target has to come along
    "SimSiam": Row("SimSiam", {"hidden_dim": 256, "out_dim": 256, "predictor_hidden_dim": 64}),
    "NNCLR": Row("NNCLR", HEADS | PREDICTOR | QUEUE | SHARP),
    "AdCo": Row("AdCo", HEADS | TEACHER | {"num_negatives": 2048}, SGD),
    "Fast-MoCo": Row("FastMoCo", HEADS | PREDICTOR | SHARP),
    "ReLIC": Row("ReLIC", HEADS | SHARP | TEACHER),
    "ReLICv2": Row("ReLICv2", HEADS | SHARP | TEACHER),
    "DetCo": Row("DetCo", QUEUE | TEACHER | {"out_dim": 128}),
    "SwAV": Row("SwAV", HEADS | {"num_prototypes": 64, "epsilon": 0.03}, ADAM | {"lr": 5e-4}),  # with 0.05 it collapses
    "DINO": Row("DINO", DINO_HEAD | TEACHER, ADAM | {"clip_each": 3.0}),
    "Barlow-Twins": Row(
        "BarlowTwins", {"hidden_dim": 256, "out_dim": 256, "bias_lr_scale": 1, "off_diagonal_weight": 0.01}
    ),
    "VICReg": Row("VICReg", {"hidden_dim": 256, "out_dim": 256}),
    "DCL": Row("DCL", HEADS | SHARP),
    "SupCon": Row("SupCon", HEADS),
    "AlignUniform": Row("AlignUniform", HEADS),
    "AlignUniform-MoCo": Row("AlignUniformMoCo", HEADS | QUEUE | TEACHER),
    "JigClu": Row("JigClu", HEADS),
    "Rotation": Row("RotationPrediction"),
    "MAE": Row("MAE", MAE_NETWORKS, MAE_ADAM, {"data.batch_size": 64}),  # an image gives a fourth of a view's tokens
}


def train(row: str, data: list[str]) -> dict[str, Any]:
    """Runs one method to its end and returns what it came to."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = RUNS[row].flags()
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
        results["rows"] = {name: results["rows"][name] for name in RUNS if name in results["rows"]}
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written: {RESULTS.relative_to(ROOT)}; scripts/result_tables.py writes the table in docs/results.md")


if __name__ == "__main__":
    main()
