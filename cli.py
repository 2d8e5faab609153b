"""The one entry point of training and evaluation.

python cli.py fit --config configs/quickstart.yaml
python cli.py fit --model SimCLR --data CIFAR10 --data.path FOLDER --trainer.max_epochs 200
python cli.py fit --help; python cli.py fit --model.help SimCLR; python cli.py fit --config ... --print_config
"""

import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning_fabric.plugins.environments import ClusterEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from pytorch_lightning.cli import LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities import rank_zero_only

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.owed import OwedBest, OwedCheckpoint, OwedValidation
from callbacks.plan import RunPlan
from callbacks.preemption import leave_requeueing_to_the_job, listen
from datamodules.errors import UserError
from methods.layouts.files import read_file
from scripts.parsing import SUBCOMMANDS, answering_mistakes, cli_arguments
from scripts.plain_cli import PlainCLI
from scripts.resuming import check_kept, checkpoint_to_use, is_finished

NETWORK_FLAGS = {"model.backbone.name", "model.backbone.in_channels", "model.backbone.small_images"}
"""No checkpoint of another value fits."""
OPTIMISER_FLAGS = {"model", "model.optim.optimizer", "model.optim.decay_biases"}
"""No state of an optimiser of another value fits, nor of another method."""
LISTED = 3  # names in a sentence
MISSING = object()


class ParallaxCLI(PlainCLI):
    """LightningCLI with this project's defaults, run folders, and a resume that keeps the flags it was given."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, but for `test`: a representation is judged on the validation images."""
        return {name: kept for name, kept in LightningCLI.subcommands().items() if name in SUBCOMMANDS}

    def _parse_ckpt_path(self) -> None:
        """Keeps the given configuration on resume; Lightning would let the checkpoint's win over flags and files.

        Flags that the checkpoint could not honour are refused; a run that is at its end is not started again.
        """
        subcommand = self.config.subcommand
        given = self.config[subcommand]
        flags = yaml.safe_load(self._parser(subcommand).dump(given, skip_unset=False))  # as config.yaml is
        given.ckpt_path = path = checkpoint_to_use(given.ckpt_path, given.trainer.default_root_dir, flags)
        if path is None or not Path(path).is_file():
            return
        fixed = NETWORK_FLAGS | (OPTIMISER_FLAGS if subcommand == "fit" else set())
        there = self._trained_with()
        if changed := {flag: value for flag, value in there.items() if flag in fixed}:
            raise UserError(f"--ckpt_path {path} does not fit these flags: {_as_trained(changed, path)}")
        if subcommand == "fit":
            check_kept(path, there, given.model.init_args)
            if is_finished(path, given.trainer, given.extend):
                sys.exit(0)

    def before_fit(self) -> None:
        """Adds what makes a run end in its last.ckpt, and a resumed one like an uninterrupted one of the same plan."""
        callbacks: list[Callback] = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        callbacks[:0] = [RunPlan(self.config.fit.extend), OwedValidation(), OwedCheckpoint(), OwedBest()]
        # last.ckpt is to hold what other checkpoints of the same moment are: which is the best so far.
        callbacks.sort(key=lambda callback: bool(getattr(callback, "save_last", False)))

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs it; says in a sentence where a checkpoint's network is another than that of the flags.

        Raises:
            UserError: naming what differs, and the flags that it was trained with.
        """
        try:
            super()._run_subcommand(subcommand)
        except KeyError as error:
            if "contains only the model" not in str(error):
                raise
            raise UserError(
                f"--ckpt_path {self._ckpt_path} has weights and no state of an optimiser, so no run can go on from it: "
                "give a checkpoint that was saved with save_weights_only: false."
            ) from error
        except RuntimeError as error:
            kind = re.search(r"Error\(s\) in loading state_dict for (\w+)", str(error))
            if not (kind and self._ckpt_path):
                raise
            keys = re.findall(r'(?<=")[\w.]+(?=")|(?<=size mismatch for )[\w.]+', str(error))
            more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
            shaping = {flag: v for flag, v in self._trained_with().items() if not flag.startswith("model.optim.")}
            raise UserError(
                f"--ckpt_path {self._ckpt_path} does not fit the {kind[1]} of these flags, which differs in "
                f"{', '.join(keys[:LISTED])}{more}: {_as_trained(shaping, self._ckpt_path)}"
            ) from error

    @property
    def _ckpt_path(self) -> str:
        """What `--ckpt_path` was given, empty for nothing."""
        return self.config.get(f"{self.config.get('subcommand')}.ckpt_path") or ""

    def _trained_with(self) -> dict[str, Any]:
        """The method and its arguments that were others when the checkpoint was written: flag -> value there."""
        if not Path(self._ckpt_path).is_file():
            return {}  # an address
        saved = read_file(self._ckpt_path).get("hyper_parameters") or {}
        model: Namespace = self.config[self.config.subcommand].model
        here = {"model": model.class_path} | {f"model.{name}": value for name, value in model.init_args.items()}
        there = {flag: _saved(saved, flag) for flag in here}
        return {flag: value for flag, value in there.items() if value is not MISSING and value != here[flag]}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Gives every run a folder of its own, `<default_root_dir>/version_<n>`, unless loggers are configured."""
        assert self.subcommand is not None, "cli.py always runs a subcommand"
        config = self.config[self.subcommand].trainer
        if config.logger is None and self.subcommand != "fit":
            kwargs["logger"] = False
        elif config.logger is None and not config.fast_dev_run:
            root = Path(config.default_root_dir or "runs")
            version = claim_version(root)
            kwargs["logger"] = [
                CSVLogger(root, name="", version=version),
                TensorBoardLogger(root, name="", version=version, default_hp_metric=False),
            ]
        made = self._get(self.config_init, "trainer")
        if config.enable_progress_bar is False:
            made.callbacks = [c for c in made.callbacks or [] if not isinstance(c, ProgressBar)]
        plugins = made.plugins or []
        plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        trainer = super().instantiate_trainer(**kwargs)
        if not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
            leave_requeueing_to_the_job(trainer)
        if config.fast_dev_run:  # is to leave nothing behind; Lightning 2.6 would still write last.ckpt at the end
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, ModelCheckpoint)]  # pyright: ignore[reportAttributeAccessIssue]
        return trainer


def _saved(hyper_parameters: dict[str, Any], flag: str) -> Any:
    """The value of a flag in a checkpoint, `MISSING` where it is not told."""
    value: Any = hyper_parameters
    for name in flag.split(".")[1:] or ["_class_path"]:
        value = value.get(name, MISSING) if isinstance(value, dict) else MISSING
    return value


def _as_trained(changed: dict[str, Any], path: str) -> str:
    """The end of a sentence: what a checkpoint was trained with, and the file that has all of it."""
    told = ", ".join(f"--{flag} {value}" for flag, value in list(changed.items())[:LISTED])
    config = Path(path).resolve().parent.parent / "config.yaml"
    shown = os.path.relpath(config) if config.is_file() else "RUN/config.yaml"
    return f"{f'it was trained with {told}; ' if told else ''}start from --config {shown}."


def claim_version(root: Path) -> str:
    """Makes the folder version_n of a new run, n above all that are there; of several runs at once each gets its own.

    Only rank 0 makes one: the others write nothing.
    """
    while True:
        taken = [int(m[1]) for p in root.glob("version_*") if (m := re.fullmatch(r"version_(\d+)", p.name))]
        folder = root / f"version_{max(taken, default=-1) + 1}"
        if rank_zero_only.rank != 0:
            return folder.name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"--trainer.default_root_dir {root}: no folder for this run can be made there ({error.strerror})."
            ) from error
        return folder.name


class SaveConfigOfFit(SaveConfigCallback):
    """Writes config.yaml into the folder of a run; what only looks at one has no folder."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """At the start of a fit."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


def quieten() -> None:
    """Keeps what is no news to the user out of the terminal: an advertisement, a deprecation inside Lightning."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not any(product in record.getMessage() for product in ("litlogger", "litmodels"))
    )
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def main() -> None:
    """Parses, builds and runs; what the user can mend ends in one sentence and status 2."""
    quieten()
    listen()
    sys.path.append(os.getcwd())  # classes in the user's own folder; last, so that no file there hides a dependency
    with answering_mistakes():
        ParallaxCLI(
            save_config_callback=SaveConfigOfFit, save_config_kwargs={"overwrite": True}, **cli_arguments(*SUBCOMMANDS)
        )


if __name__ == "__main__":
    main()
