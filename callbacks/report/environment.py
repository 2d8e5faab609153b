"""What a run ran on and with: hardware, versions, settings. No names of people, machines or places."""

import os
import platform
import re
import resource
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import Trainer

_ROOT = Path(__file__).resolve().parents[2]
# A path from the root of the file system, not the end of a URL or a relative path.
_ABSOLUTE = re.compile(r"(?<![\w.~/:…-])/(?:[^\s/'\",\[\]{}]+/)*([^\s/'\",\[\]{}]+)/?")


def describe_environment(trainer: Trainer) -> dict[str, str]:
    """Label -> text, in the order in which it is read."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if platform.system() == "Darwin" else 2**20)
    rows = {
        "Processor": f"{_processor()}, {cores} cores usable",
        "Memory": f"{memory:.0f} GiB, of which this process used up to {peak:.1f} GiB",
        "Accelerator": _accelerators(trainer),
        "Processes": f"{trainer.world_size} on {trainer.num_nodes} machine(s), {type(trainer.strategy).__name__}",
        "Precision": str(trainer.precision),
        "Versions": f"Python {platform.python_version()}, PyTorch {torch.__version__}, "
        f"torchvision {version('torchvision')}, Lightning {version('pytorch-lightning')}",
        "System": f"{platform.system()} {platform.machine()}",
    }
    if commit := _commit():
        rows["Code"] = commit
    return rows


def config_text(folder: Path, hparams: dict[str, Any]) -> str:
    """The configuration of the run as YAML, from the file beside the report, else from the module's hyperparameters.

    Paths outside the run's folder are cut down to their last part.
    """
    file = folder / "config.yaml"
    text = file.read_text() if file.exists() else yaml.safe_dump(_plain(hparams), sort_keys=False)
    return without_paths(text, folder)


def without_paths(text: str, folder: Path) -> str:
    """The text with the run's folder written as `.` and any other absolute path as `…/<its last part>`."""
    return _ABSOLUTE.sub(r"…/\1", text.replace(f"{folder.absolute()}/", "./").replace(str(folder.absolute()), "."))


def _plain(value: Any) -> Any:
    """The value in types that YAML knows."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _accelerators(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return "none" if device.type == "cpu" else device.type
    properties = torch.cuda.get_device_properties(device)
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    total = properties.total_memory / 2**30
    return f"{properties.name}, {total:.0f} GiB each, of which the first held up to {peak:.1f} GiB of tensors"


def _commit() -> str:
    """Commit of the code, and whether it had been changed since; empty where that is unknown."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        commit, changed = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"commit {commit}" + (", with local changes" if changed else "")
