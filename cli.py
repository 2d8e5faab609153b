"""The one entry point of training and evaluation.

python cli.py fit --config configs/quickstart.yaml
python cli.py fit --model SimCLR --data CIFAR10 --data.path FOLDER --trainer.max_epochs 200
python cli.py fit --help; python cli.py fit --model.help SimCLR; python cli.py fit --config ... --print_config
"""

import difflib
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

import callbacks
import datamodules
import methods
from datamodules.errors import UserError

ROOT = Path(__file__).resolve().parent
SUBCOMMANDS = ("fit", "validate", "predict")
CHOICES = {"model": ("methods", methods), "data": ("data modules", datamodules), "callbacks": ("callbacks", callbacks)}


class ParallaxCLI(LightningCLI):
    """LightningCLI with this project's defaults, run folders, and a resume that keeps the flags it was given."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, but for `test`: a representation is judged on the validation images."""
        return {name: kept for name, kept in LightningCLI.subcommands().items() if name in SUBCOMMANDS}

    def _parse_ckpt_path(self) -> None:
        """Keeps the given configuration on resume; Lightning would let the checkpoint's win over flags and files.

        The optimiser's state is the checkpoint's, and with it learning rate, weight decay and momentum.
        """
        path = self.config.get(f"{self.config.get('subcommand')}.ckpt_path")
        if path and path not in ("best", "last", "hpc") and "://" not in path and not Path(path).is_file():
            raise UserError(
                f"--ckpt_path {path}: there is no such file. A run's newest is checkpoints/last.ckpt in its folder."
            )

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
        trainer = super().instantiate_trainer(**kwargs)
        if config.fast_dev_run:  # is to leave nothing behind; Lightning 2.6 would still write last.ckpt at the end
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, ModelCheckpoint)]  # pyright: ignore[reportAttributeAccessIssue]
        return trainer


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
        return folder.name


class ParallaxParser(LightningArgumentParser):
    """Says in a sentence what is wrong with a flag or file, and what comes nearest to it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the sentence and exits with status 2; parsers inside parsers raise, as jsonargparse needs."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        sys.stderr.write(f"error: {explain(message, known_keys(parser))}\n")
        self.exit(2)


def known_keys(parser: ArgumentParser) -> list[str]:
    """Names of the options of a parser, without dashes."""
    return [option.lstrip("-") for action in parser._actions for option in action.option_strings]


def explain(message: str, keys: list[str]) -> str:
    """Boils jsonargparse's account of every type it tried down to the one fact that helps.

    Args:
        message: its error message, often nested.
        keys: options of the command, for the nearest match of a misspelt one.
    """
    if found := re.findall(r"(?:[Oo]ption '|unrecognized arguments: (?:--)?)([\w.+-]+)", message):
        key = found[-1].removeprefix("fit.")
        where = ""
        if classes := re.findall(r"class_path '([\w.]+)'", message):
            where, keys = f" of {classes[-1].rpartition('.')[2]}", class_keys(classes[-1])
            if group := re.search(r"Group '([\w.]+)' does not accept", message):
                key = f"{group[1]}.{key}"
        return f"{key!r} is no option{where}. {nearest(key, keys)}"
    if found := re.findall(r"Expected a dot import path string: (\S+)", message):
        kind = next((kind for kind in CHOICES if re.search(rf'key "[\w.]*{kind}', message)), None)
        named, room = CHOICES[kind] if kind else ("classes", methods)
        names = sorted(
            n
            for n, v in vars(room).items()
            if isinstance(v, type) and issubclass(v, LightningModule | LightningDataModule | Callback)
        )
        return (
            f"{found[-1]!r} is none of the {named} that are known here. {nearest(found[-1], names, show_all=True)} "
            "A class of your own is given by its import path."
        )
    if found := re.findall(r'Parser key "([\w.]+)":\s+(Expected [^\n]*)', message):
        key, problem = found[-1]
        return f"{key}: {problem.replace('<class ', '').replace('>.', '.')}"
    if "arguments are required" in message:
        missing = re.findall(r"(?:fit|validate|test|predict)\.([\w.]+)", message)
        flags = " and ".join(f"--{name}" for name in missing)
        return f"{flags} missing: give --config FILE, or for example --model SimCLR --data CIFAR10."
    return message


def nearest(word: str, known: list[str], show_all: bool = False) -> str:
    """A sentence with the nearest known words, else a hint where they are listed."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    near = (
        near
        or difflib.get_close_matches(word.partition(".")[0], known, n=1)
        or [k for k in known if k.endswith(f".{word}")]
    )
    sentences = [f"Did you mean {near[0]!r}?"] if near else []
    if show_all:
        sentences.append(f"Known: {', '.join(known)}.")
    elif not near:
        sentences.append("See --help, and --model.help or --data.help with a class name.")
    return " ".join(sentences)


def class_keys(class_path: str) -> list[str]:
    """Names of all arguments of a class, nested ones with dots, as the command line takes them."""
    module, _, name = class_path.rpartition(".")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(getattr(__import__(module, fromlist=[name]), name), fail_untyped=False)
    return [key for key in known_keys(parser) if key != "help"]


def quieten() -> None:
    """Keeps what is no news to the user out of the terminal: an advertisement, a deprecation inside Lightning."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage()
    )
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def main() -> None:
    """Parses, builds and runs; what the user can mend ends in one sentence and status 2."""
    quieten()
    sys.path.append(os.getcwd())  # classes in the user's own folder; last, so that no file there hides a dependency
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    common = {"default_env": True, "env_prefix": "PARALLAX", "allow_abbrev": False}
    defaults = {"default_config_files": [str(ROOT / "configs" / "defaults.yaml")]}
    try:
        ParallaxCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_class=ParallaxParser,
            parser_kwargs=common | {name: common | defaults for name in SUBCOMMANDS},
        )
    except (UserError, ValueError) as error:
        told = user_error(error)
        if told is None:
            raise
        sys.stderr.write(f"error: {told}\n")
        sys.exit(2)


def user_error(error: BaseException | None) -> UserError | None:
    """The user's mistake behind an exception; jsonargparse wraps what a constructor raises into accounts of its own."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


if __name__ == "__main__":
    main()
