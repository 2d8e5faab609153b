"""Which files hold a method's own settings, for those who gave none."""

import re
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def configs_of(method: type) -> list[str]:
    """The configurations of a method, as they are given to `--config` in the project's folder.

    Returns:
        Those for ImageNet, which most papers are about, else all; none for a method of somebody's own.
    """
    if not method.__module__.startswith("methods."):
        return []
    named = re.compile(rf"^ +class_path: {method.__name__}$", re.MULTILINE)
    found = [path for path in sorted(CONFIGS.rglob("*.yaml")) if named.search(path.read_text())]
    of_paper = [path for path in found if path.parent.name == "imagenet"] or found
    return [path.relative_to(CONFIGS.parent).as_posix() for path in of_paper]
