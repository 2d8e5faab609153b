"""Folders as runs leave them, without running."""

import csv
import json
from pathlib import Path
from typing import Any

import yaml


def write_run(
    folder: Path,
    epochs: int = 3,
    steps: int = 10,
    knn: float = 0.5,
    config: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
) -> Path:
    """A finished run: a loss in the middle of each epoch, accuracies at its end, growing to `knn`.

    Args:
        folder: made here.
        epochs: of the run.
        steps: in an epoch.
        knn: the last kNN accuracy.
        config: what config.yaml says beside method and data.
        summary: what summary.json says otherwise; empty for a run that wrote none.
    """
    folder.mkdir(parents=True)
    model = {"class_path": "methods.SimCLR", "init_args": {"temperature": 0.1, "backbone": {"name": "convnet"}}}
    written = {"model": model, "data": {"class_path": "datamodules.Digits", "init_args": {"batch_size": 128}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(written | (config or {})))
    with (folder / "metrics.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["epoch", "step", "train/loss", "knn/val_top1", "probe/val_top1"])
        table.writeheader()
        for epoch in range(epochs):
            top1 = knn * (epoch + 1) / epochs
            table.writerow({"epoch": epoch, "step": epoch * steps + steps // 2, "train/loss": 5 - epoch})
            table.writerow(
                {"epoch": epoch, "step": (epoch + 1) * steps - 1, "knn/val_top1": top1, "probe/val_top1": top1 / 2}
            )
    if summary is None or summary:
        figures = {"step": epochs * steps, "epochs": epochs, "images_per_second": 800.0, "wall_seconds": 100.0}
        figures |= {"protocol": "cosine, k 20", "verdict": "alive: std 0.28", "metrics": {"knn/val_top1": knn}}
        (folder / "summary.json").write_text(json.dumps(figures | (summary or {})))
    return folder
