"""What every benchmark writes beside its numbers: with what and on what they were measured."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # beside scripts that are run as files
from scripts.reproduce import commit

COMMIT = commit()  # before the measuring, which may take long enough for somebody to change the code


def processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_report(path: Path, packages: tuple[str, ...], **facts: Any) -> None:
    """Writes a benchmark's JSON file: its own facts, and commit, processor and versions.

    Args:
        path: file to write; its folder is made.
        packages: whose versions matter.
        facts: what was measured, and how.
    """
    machine = {"commit": COMMIT, "processor": processor(), "versions": {name: version(name) for name in packages}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts | machine, indent=2) + "\n")
