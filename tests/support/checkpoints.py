"""Checkpoints that hold next to nothing, in the folders of runs."""

import os
from pathlib import Path
from typing import Any

import torch
import yaml

FLAGS: dict[str, Any] = {"model": {"class_path": "SimCLR"}, "data": {"class_path": "Digits"}, "seed_everything": 0}


def write(path: Path, age: float, cut: bool = False, **changed: Any) -> str:
    """A checkpoint and the config.yaml of its run; returns its path.

    Args:
        path: RUN/checkpoints/NAME.ckpt.
        age: when it was written; more is newer.
        cut: leaves the end away.
        changed: settings that are not those of `FLAGS`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent.parent / "config.yaml").write_text(yaml.safe_dump(FLAGS | {"trainer": {"max_epochs": age}} | changed))
    return alone(path, age, cut, None)


def alone(path: Path, age: float, cut: bool = False, settings: dict[str, Any] | None = FLAGS) -> str:
    """A checkpoint without a config.yaml, which may say itself what its run trains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": age} | ({"settings": settings} if settings else {}), path)
    if cut:
        path.write_bytes(path.read_bytes()[:-50])
    os.utime(path, (age, age))
    return str(path)
