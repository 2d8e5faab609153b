"""A fault: what goes wrong around a command, and what the command answers to it."""

import hashlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.commands import ROOT, program

LONGEST = 15  # lines that a person is asked to read
ALONE = {"PARALLAX_DATA": "", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""No data of this machine's, no accelerator, no network: the answers are the same everywhere."""

Prepare = Callable[[Path, Path], None]
"""Fills a folder; the second one holds a finished run, `runs/version_0`."""

TINY = (
    "--model.hidden_dim 16 --model.out_dim 8 --model.backbone.name convnet --model.backbone.options '{width: 4}' "
    "--model.optim.optimizer sgd --trainer.max_epochs 1 --trainer.accelerator cpu"
)
IMAGES = "--data Digits --data.max_train_images 64 --data.max_val_images 32 --data.batch_size 16"
FIT = "cli.py fit"
DIGITS = f"{FIT} --model SimCLR {TINY} --model.backbone.in_channels 1 {IMAGES}"
MOCO = (
    f"{FIT} --model MoCo {TINY} --model.backbone.in_channels 1 {IMAGES} --model.queue_size 64 --model.batch_norm none"
)
"""Runs of seconds in which nothing is wrong: what a fault adds to them is all that is."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        wrong: what it is, in words.
        flags: what the user adds to the command for it; empty where the files alone are wrong.
        says: what the answer must hold, literally; the whole of it stands in docs/faults.md.
        on: the command in which nothing else is wrong.
        prepare: fill the folder in which the command runs.
        code: exit status; 0 for what a run survives, and then tells.
        midway: whether the run had begun, and so tells what it came to as well.
        environment: variables that are set.
    """

    wrong: str
    flags: str
    says: str
    on: str = DIGITS
    prepare: tuple[Prepare, ...] = ()
    code: int = 2
    midway: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def answer(self, folder: Path, trained: Path) -> str:
        """Brings the fault about and returns the line that the user reads, after checking how it was told.

        Args:
            folder: empty; the user's.
            trained: see `Prepare`.
        """
        for prepare in self.prepare:
            prepare(folder, trained)
        before = contents(folder)
        name, *words = shlex.split(f"{self.on} {self.flags}")
        code, text = program(name, *words, folder=folder, environment=ALONE | self.environment)
        assert code == self.code, text
        assert "Traceback" not in text, text
        lines = [line.strip() for line in text.replace(str(ROOT), ".").strip().splitlines()]
        told = lines[-1] if self.code == 2 else next((line for line in lines if self.says in line), "")
        assert self.says in told, text
        assert len(lines) <= LONGEST or self.code == 0 or self.midway, text
        after = contents(folder)
        assert {path: after.get(path) for path in before} == before, "the user's files were changed"
        new = after.keys() - before.keys()  # a run's folder, and the index of a shard, may be
        strays = [path for path in new if path.parts[0] != "runs" and path.suffix != ".index"]
        assert not strays, f"left behind: {strays}"
        return " ".join(told.replace("│", "").split())


def contents(folder: Path) -> dict[Path, str]:
    """All files below a folder, and a digest of each."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".output"]
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
