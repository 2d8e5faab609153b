"""Looks a run over before hours are spent on it: data, speed, memory, settings; takes the flags of `cli.py fit`.

python scripts/doctor.py --config configs/cifar10/moco_v2.yaml --data.path FOLDER --sheet views.png

Takes about a minute, on one device, and leaves nothing behind but the picture of the views. Exit status 0 where all is
well or there are only warnings, 1 where the run would fail or be wasted, 2 for flags that are wrong. What is looked at,
and how each number is measured: docs/doctor.md.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, from anywhere
from datamodules import ImageDataModule
from datamodules.errors import UserError
from scripts.checkup.checks import Row, judge
from scripts.checkup.facts import Facts
from scripts.checkup.finding import problem
from scripts.checkup.outputs import check_writable
from scripts.checkup.settings import model_facts, run_facts, with_length
from scripts.checkup.trial import Trial
from scripts.look.figures import save, style
from scripts.look.views import draw
from scripts.parsing import answering_mistakes, cli_arguments
from scripts.plain_cli import PlainCLI
from scripts.quiet import logging_from

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}
WIDTH = 140  # characters, where there is no terminal to ask
ALONE: dict[str, Any] = {  # what the Trainer of the trial is told instead: one device, and nothing that leaves a trace
    **{"num_nodes": 1, "strategy": "auto", "logger": False, "profiler": None, "fast_dev_run": False},
    **{"limit_val_batches": 0, "num_sanity_val_steps": 0, "max_time": None, "default_root_dir": None},
    **{"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": True},
}


class DoctorCLI(PlainCLI):
    """Takes the flags of `cli.py fit`, and looks at the run instead of running it.

    Attributes:
        rows: what was found.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        super().__init__(save_config_callback=None, **cli_arguments("fit"))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """One, which is not typed: see `parse_arguments`."""
        return {"fit": LightningCLI.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The doctor's own flags."""
        parser.add_argument("--sheet", type=Path | None, help="picture (PNG) of the views to write")
        parser.add_argument("--seconds", type=float, default=45.0, help="for the measurements, warm-up aside")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Reads the command line as `cli.py fit` would."""
        self.config = parser.parse_args(["fit", *sys.argv[1:]])

    def _parse_ckpt_path(self) -> None:
        """A resumed run is looked at with the flags it is given, as `cli.py` resumes it."""

    def before_instantiate_classes(self) -> None:
        """Refuses before the minute what would fail after it."""
        given = self.config.fit
        if given.seconds <= 0:
            raise UserError(f"--seconds {given.seconds:g} must be above 0, for example 45.")
        check_writable("--sheet", given.sheet, ".png")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer of the trial."""
        devices = self.config.fit.trainer.devices
        self.trial = Trial(self.config.fit.seconds / 3)
        one = [devices[0]] if isinstance(devices, list) else 1
        return super().instantiate_trainer(**ALONE, devices=one, callbacks=[self.trial], **kwargs)

    def fit(self, model: LightningModule, datamodule: LightningDataModule, **_: Any) -> None:
        """What is done instead of fitting."""
        failures = [] if (failure := self._try(model, datamodule)) is None else [failure]
        config, made = self.config.fit.trainer, self.config_init["fit"]["trainer"]
        counted = self.trainer
        kept = {name: made[name] for name in ("accelerator", "devices", "num_nodes", "strategy", "precision")}
        try:
            counted = Trainer(**kept, logger=False, enable_checkpointing=False)
        except MisconfigurationException as error:
            found = problem(_first_line(error), "See --trainer.devices, --trainer.strategy and --trainer.accelerator.")
            failures.append(Row("devices", "", (found,)))
        data = self.trial.data
        run = with_length(run_facts(config, counted, made["callbacks"] or []), config, data, self.trial.batches)
        facts = Facts(data, run, model_facts(model, data, run), self.trial.measured)
        self.rows = [*judge(facts), *failures]
        if facts.measured is None and failure is None:
            self.rows.append(Row("speed", "not measured: the run has too few batches", ()))
        if self.config.fit.sheet and self.trial.views is not None and isinstance(datamodule, ImageDataModule):
            with style():
                save(draw(datamodule, self.trial.views, facts.model.name), self.config.fit.sheet)

    def _try(self, model: LightningModule, data: LightningDataModule) -> Row | None:
        """Runs the trial; what it fails with, if it does."""
        try:
            self.trainer.fit(model, datamodule=data)
        except (UserError, MisconfigurationException) as error:
            found = problem(str(error), "The run would end with this.")
        except torch.OutOfMemoryError as error:
            advice = "Set a lower --data.batch_size, or --model.micro_batch_size where the method has it."
            found = problem(f"the step does not fit in the memory: {_first_line(error)}", advice)
        else:
            return None
        return Row("trial", "", (found,))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def as_table(rows: list[Row]) -> Table:
    """The rows for the terminal."""
    table = Table("", "", "what was found", "what to do", show_lines=True)
    for row in rows:
        told = "\n".join(text for text in (row.told, *(finding.found for finding in row.findings)) if text)
        advice = "\n".join(finding.advice for finding in row.findings)
        table.add_row(row.subject, f"[{COLOURS[row.level]}]{row.level}[/]", told, advice)
    return table


@contextmanager
def quiet() -> Iterator[None]:
    """Only the table says what is to be said."""
    with logging_from(logging.ERROR), warnings.catch_warnings(action="ignore"):
        yield


def main() -> None:
    sys.path.append(os.getcwd())  # classes in the user's own folder
    with answering_mistakes(), quiet():
        rows = DoctorCLI().rows
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(as_table(rows))
    counts = {level: sum(row.level == level for row in rows) for level in COLOURS}
    console.print(f"{counts['problem']} problem(s), {counts['warning']} warning(s), {counts['ok']} ok")
    sys.exit(1 if counts["problem"] else 0)


if __name__ == "__main__":
    main()
