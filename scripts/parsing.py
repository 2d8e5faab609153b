"""What every command of this project answers to a mistake: one sentence, and exit status 2."""

import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning.cli import LightningArgumentParser

import callbacks
import datamodules
import methods
import methods.sharding  # gives a strategy its name
from callbacks.preemption import Preempted, tell
from scripts.answers import answer

ROOT = Path(__file__).resolve().parents[1]
SUBCOMMANDS = ("fit", "validate", "predict")
CHOICES = {"model": ("methods", methods), "data": ("data modules", datamodules), "callbacks": ("callbacks", callbacks)}
BASES = {"LightningModule": "model", "LightningDataModule": "data"}  # what stands for a class that is not chosen yet
EXAMPLES = {"model": "--model SimCLR", "data": "--data CIFAR10"}

# A value names a class of the kind that its argument takes: no command, and nothing where an argument takes anything.
set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)


class PlainParser(ArgumentParser):
    """Says in a sentence what is wrong with a flag or file, and what comes nearest to it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the sentence and exits with status 2; parsers inside parsers raise, as jsonargparse needs."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        sys.stderr.write(f"error: {explain(message, known_keys(parser))}\n")
        self.exit(2)


class ParallaxParser(PlainParser, LightningArgumentParser):
    """Lightning's parser of configurations, with answers in a sentence."""


def cli_arguments(*subcommands: str) -> dict[str, Any]:
    """What makes a LightningCLI with these subcommands take the flags, files and environment variables of a run."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    common = {"default_env": True, "env_prefix": "PARALLAX", "allow_abbrev": False}
    defaults = {"default_config_files": [str(ROOT / "configs" / "defaults.yaml")]}
    return {
        "model_class": LightningModule,
        "datamodule_class": LightningDataModule,
        "subclass_mode_model": True,
        "subclass_mode_data": True,
        "auto_configure_optimizers": False,
        "seed_everything_default": 0,
        "parser_class": ParallaxParser,
        "parser_kwargs": common | {name: common | defaults for name in subcommands},
    }


@contextmanager
def answering_mistakes() -> Iterator[None]:
    """Ends the program with a sentence and status 2 where the user can mend what went wrong within."""
    try:
        yield
    except Preempted as preempted:
        tell(preempted)
        raise
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        sys.stderr.write("interrupted\n")  # the Trainer makes Ctrl-C a SystemExit(1)
        sys.exit(130)  # as shells count it
    except Exception as error:
        told = answer(error)
        if told is None:
            raise
        sys.stderr.write(f"error: {told}\n")
        sys.exit(2)


def known_keys(parser: ArgumentParser) -> list[str]:
    """Names of the options of a parser, without dashes."""
    return [option.lstrip("-") for action in parser._actions for option in action.option_strings]


def explain(message: str, keys: list[str]) -> str:
    """Boils jsonargparse's account of every type it tried down to the one fact that helps.

    Args:
        message: its error message, often nested.
        keys: options of the command, for the nearest match of a misspelt one.
    """
    classes = re.findall(r"class_path '([\w.]+)'", message)
    if found := re.findall(r"(?:[Oo]ption '|unrecognized arguments: (?:--)?)([\w.+-]+)", message):
        return _unknown_key(found[-1], message, classes, keys)
    if found := re.findall(r"Importing '([\w.]+)' is not allowed", message):
        return f"{found[-1]!r} is no class that may stand here: give one of the kind that is wanted. See --help."
    if sentence := _unreadable(message):
        return sentence
    if "class, but" in message and "is abstract" in message:
        if nested := re.search(r"key \"(\w+)\".*NestedArg\(key='([\w.]+)'", message, re.DOTALL):
            return _class_first(nested[1], nested[2])
        return _unknown_class(re.findall(r"Given value: (\S+)", message)[0], message)
    if found := re.findall(r"Expected a dot import path string: (\S+)", message):
        return _unknown_class(found[-1], message)
    if found := re.findall(r"arguments are required: ([^\n]*)", message):
        missing = [re.sub(rf"^({'|'.join(SUBCOMMANDS)})\.", "", name) for name in found[-1].split(", ")]
        return _missing(missing, message, classes, keys)
    if found := re.findall(r'Parser key "([\w.]+)":\s+(Expected [^\n]*)', message):
        key, problem = found[-1]
        problem = re.sub(r"a typing\.Literal\[([^]]*)]", r"one of \1", problem)
        return f"{key}: {problem.replace('<class ', '').replace('>.', '.')}"
    if found := re.findall(r'Parser key "([\w.]+)":\s+Does not validate [^\n]*\s+Subtypes: \[([^\n]*)\]', message):
        value = re.findall(r"Given value: ([^\n]*)", message)[0]  # of several, the innermost comes first
        kinds = re.sub(r"<class '(\w+)'>|typing\.Literal\[([^]]*)]", r"\1\2", found[-1][1]).replace("NoneType", "null")
        if not value.startswith(("Namespace", "NestedArg")):
            return f"{found[-1][0]} is {value}; allowed is one of: {kinds}."
    return message


def _unreadable(message: str) -> str | None:
    """Of a configuration or a file of code that cannot be read at all; None where that is not it."""
    if found := re.search(r"(?:File does not exist|Path is not a file): '(.*)'", message):
        return f"--config {os.path.relpath(found[1])}: there is no such file."
    if message.startswith("Unexpected config:"):
        held = " ".join(message.removeprefix("Unexpected config:").split()) or "nothing"
        return (
            f"A configuration holds {held}, and no settings: write them as `model: ...`, `data: ...`, `trainer: ...`."
        )
    if message.startswith("Problems parsing config:"):
        reason = re.sub(r"\s+in \"<unicode string>\",", " in", message.removeprefix("Problems parsing config:"))
        return f"A configuration is no YAML: {' '.join(reason.split())}."
    problem = re.search(r"Errors:\s+- (?:Problem with given class_path '[\w.]+':\s+)?([^\n]+)", message)
    value = re.search(r"Given value: (\w+(?:\.\w+)+)\s*$", message)
    if problem and value and "Expected a path but" in message:
        absent = f"No module named '{value[1].partition('.')[0]}'" in problem[1]
        where = " A class of your own has to be importable from this folder." if absent else ""
        return f"{value[1]!r} cannot be used: {problem[1]}.{where}"
    return None


def _unknown_key(key: str, message: str, classes: list[str], keys: list[str]) -> str:
    key, where = key.removeprefix("fit."), ""
    if classes and _name(classes[-1]) in BASES:
        return _class_first(BASES[_name(classes[-1])], key)
    if classes:
        where, keys = f" of {_name(classes[-1])}", class_keys(classes[-1])
        if group := re.search(r"Group '([\w.]+)' does not accept", message):
            key = f"{group[1]}.{key}"
    return f"{key!r} is no option{where}. {nearest(key, keys)}"


def _class_first(group: str, key: str) -> str:
    return f"--{group}.{key} needs its class first: --{group} NAME before it."


def _unknown_class(given: str, message: str) -> str:
    kind = next((kind for kind in CHOICES if re.search(rf'key "[\w.]*{kind}', message)), None)
    named, room = CHOICES[kind] if kind else ("classes", methods)
    names = sorted(
        name
        for name, value in vars(room).items()
        if isinstance(value, type)
        and issubclass(value, LightningModule | LightningDataModule | Callback)
        and not inspect.isabstract(value)
    )
    return (
        f"{given!r} is none of the {named} that are known here. {nearest(given, names, show_all=True)} "
        "A class of your own is given by its import path."
    )


def _missing(names: list[str], message: str, classes: list[str], keys: list[str]) -> str:
    if classes:  # what the constructor of a class needs, such as a path
        group = re.findall(r'Parser key "([\w.]+)"', message)[0]
        flags = " and ".join(f"--{group}.{name}" for name in names)
        return f"{flags} missing: {_name(classes[-1])} needs it. See --{group}.help {_name(classes[-1])}."
    # What is no flag is given by its place.
    flags = {name: f"--{name}" if name in keys or name in EXAMPLES else name.upper() for name in names}
    shown = {name: f"{flag} ..." if flag.startswith("-") else flag for name, flag in flags.items()}
    config = "--config FILE, or " if "config" in keys else ""
    examples = " ".join((shown | EXAMPLES)[name] for name in names)
    told = f"{' and '.join(flags.values())} missing"
    return (
        f"{told}: see --help."
        if examples == " ".join(flags.values())
        else f"{told}: give {config}for example {examples}."
    )


def _name(class_path: str) -> str:
    return class_path.rpartition(".")[2]


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
