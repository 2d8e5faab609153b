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

from jsonargparse import Namespace
from lightning_fabric.plugins.environments import ClusterEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.io import CheckpointIO

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.features import FeatureWriter
from callbacks.owed import OwedBest, OwedCheckpoint, OwedValidation
from callbacks.plan import RunPlan
from callbacks.preemption import leave_requeueing_to_the_job, listen
from datamodules.errors import UserError
from datamodules.randomness import run_seed
from methods.layouts.files import read_file
from scripts.parsing import SUBCOMMANDS, answering_mistakes, cli_arguments
from scripts.plain_cli import PlainCLI
from scripts.resuming import check_kept, checkpoint_to_use, is_finished
from scripts.run_folders import claim_version, folder_of_runs, is_address
from scripts.same_settings import ENTRY, plain_data, what_is_trained

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
        root = folder_of_runs(given.trainer.default_root_dir)
        flags = as_plain_data(self._parser(subcommand), given)
        if flags["seed_everything"] is True:  # any: what Lightning takes is in the run's configuration
            flags["seed_everything"] = run_seed()
        path = checkpoint_to_use(given.ckpt_path, root, flags, may_start_anew=subcommand == "fit")
        given.ckpt_path = path
        if path is None or is_address(path):
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

    def before_predict(self) -> None:
        """Adds what writes the features, into the folder of the checkpoint's run.

        Raises:
            UserError: there is no checkpoint, so the features would be those of random weights.
        """
        if not self._ckpt_path:
            raise UserError("predict writes what a trained network makes of the images: give it by --ckpt_path.")
        self.config_init["predict"]["return_predictions"] = False  # they would fill the memory of the device
        folder = Path() if is_address(self._ckpt_path) else Path(self._ckpt_path).parent
        run = folder.parent if folder.name == "checkpoints" else folder
        self.trainer.callbacks.append(FeatureWriter(run / "features.pt"))  # pyright: ignore[reportAttributeAccessIssue]

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
        if not self._ckpt_path or is_address(self._ckpt_path):
            return {}
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
            root = folder_of_runs(config.default_root_dir)
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
    shown = os.path.relpath(config) if config.is_file() and not is_address(path) else "RUN/config.yaml"
    return f"{f'it was trained with {told}; ' if told else ''}start from --config {shown}."


class SaveConfigOfFit(SaveConfigCallback):
    """Writes config.yaml into the folder of a run, and what it trains into its checkpoints, which may lie elsewhere.

    What only looks at a run has no folder.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """At the start of a fit; where a logger's folder is the working folder, its config.yaml is the user's."""
        if stage == "fit":
            self.save_to_log_dir = Path(trainer.log_dir or "").resolve() != Path.cwd()
            super().setup(trainer, pl_module, stage)
            self._settings = what_is_trained(as_plain_data(self.parser, self.config))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds it outside the callbacks' states, so that it can be read without this class."""
        checkpoint[ENTRY] = self._settings


def as_plain_data(parser: LightningArgumentParser, config: Namespace) -> dict[str, Any]:
    """A configuration as its config.yaml holds it."""
    return plain_data(parser.dump(config, skip_unset=False))


def quieten() -> None:
    """Keeps what is no news to the user out of the terminal: an advertisement, a deprecation inside Lightning."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not any(product in record.getMessage() for product in ("litlogger", "litmodels"))
    )
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")
    warnings.filterwarnings("ignore", message="The dirpath has changed.*")  # every run has a folder of its own
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
