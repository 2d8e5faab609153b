"""Where a network comes from and how good it was found, as far as its checkpoint and run folder tell."""

import hashlib
import inspect
import json
import re
import shutil
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import methods
from methods.layouts.files import read_file
from methods.layouts.own import is_own
from scripts.evaluation_data import run_config
from scripts.reproduce import ROOT, commit


@dataclass(frozen=True)
class Provenance:
    """What is known of a checkpoint beside its network; None is what is not known.

    Attributes:
        method: name of its class.
        paper: where the method was published.
        step: optimiser steps.
        config_hash: first digits of the SHA-256 of the run's config.yaml.
        figures: label -> accuracy, measured by the run itself at this step.
        protocol: how the kNN accuracies were measured.
        unmeasured: why there are no figures.
    """

    method: str | None = None
    paper: str | None = None
    step: int | None = None
    config_hash: str | None = None
    figures: dict[str, float] | None = None
    protocol: str | None = None
    unmeasured: str = "the file does not say"


FIGURES = {  # key in summary.json -> label
    "knn_top1": "kNN top-1",
    "untrained_top1": "kNN top-1 of the same network before training",
    "pixels_top1": "kNN top-1 of the raw pixels",
    "probe_top1": "online linear probe top-1",
}


def provenance(path: str, part: str) -> Provenance:
    """Looks into a checkpoint and its run folder, RUN for RUN/checkpoints/NAME.ckpt.

    Args:
        path: the checkpoint; of others' files nothing is known here.
        part: `backbone` or `teacher`; runs measure their backbone alone.
    """
    file = read_file(path)
    if not is_own(file):
        return Provenance()
    class_path = str(file["hyper_parameters"].get("_class_path", ""))
    known: dict[str, Any] = {
        "method": file.get("method") or class_path.rpartition(".")[2] or None,
        "paper": paper_of(class_path),
        "step": file.get("global_step"),
    }
    config = run_config(path)
    if config is None:
        return Provenance(**known, unmeasured="the checkpoint lies in no run folder")
    digest = hashlib.sha256(config.read_bytes()).hexdigest()[:12]
    return Provenance(**known, config_hash=digest, **_measured(config.parent / "summary.json", part, known["step"]))


def paper_of(class_path: str) -> str | None:
    """The citation at the top of a method's file, up to its arXiv number; None for methods that are not ours."""
    package, _, name = class_path.rpartition(".")
    method = getattr(methods, name, None)
    if package.partition(".")[0] != "methods" or not inspect.isclass(method):
        return None
    _, _, text = (inspect.getdoc(sys.modules[method.__module__]) or "").partition("\n\n")
    cited = re.split(r"Follows|The authors|Deviations", " ".join(text.split()))[0]
    found = re.match(r".*arXiv:\d{4}\.\d{4,5}", cited)  # to the last of several
    return found[0] if found else None


def exporter() -> str:
    """This code: version and revision."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    revision = commit() if shutil.which("git") and (ROOT / ".git").exists() else ""
    return f"Parallax {version}" + (f", commit {revision}" if revision else "")


def _measured(file: Path, part: str, step: int | None) -> dict[str, Any]:
    """Figures of a run's summary, where they are those of this very network."""
    if part != "backbone":
        return {"unmeasured": "a run measures its backbone, not the teacher"}
    if not file.is_file():
        return {"unmeasured": "the run has no summary.json yet"}
    summary = json.loads(file.read_text())
    if (measured := summary.get("measured_step")) != step:
        return {"unmeasured": f"the run last measured it at step {measured}" if measured else "the run never did"}
    figures = {label: summary[key] for key, label in FIGURES.items() if summary.get(key) is not None}
    return {"figures": figures, "protocol": summary.get("protocol")}
