"""Which images a command judges a checkpoint on: those of the flags, or else of the run that wrote it.

Between making its parser and reading the command line a script calls `add_data`, and afterwards `data_for`.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from datamodules import ImageDataModule
from datamodules.errors import UserError
from methods.layouts.files import read_file
from scripts.parsing import PlainParser

OF_TRAINING = ("views", "masks")  # arguments of a run's data that concern its training views alone
OF_NETWORK = ("image_size", "mean", "std")  # arguments in which a network expects its images


def add_data(parser: PlainParser, words: Sequence[str] | None = None) -> None:
    """Adds `--data` and its flags, with the data of a checkpoint's run as default.

    The default has to be known before the flags are read, as `--data.batch_size 8` needs a class to belong to: so this
    looks for the checkpoint among the words of the command line.

    Args:
        parser: gets the flags.
        words: the command line; None for that of this process.
    """
    parser.add_subclass_arguments(ImageDataModule, "data", required=False)
    words = sys.argv[1:] if words is None else words
    if any(word == "--data" or word.startswith("--data=") for word in words):
        return  # a class of another name would take over the arguments of the run's that it happens to share
    configs = [config for word in words if (config := run_config(word))]
    data = _data_of(configs[0]) if configs else None
    if data:
        kept = {name: value for name, value in (data.get("init_args") or {}).items() if name not in OF_TRAINING}
        with suppress(ImportError, AttributeError, ValueError):  # a class of another project: `data_for` asks for one
            parser.set_defaults({"data": {"class_path": data["class_path"], "init_args": kept}})


def data_for(
    given: Namespace, parser: PlainParser, checkpoint: str, images: dict[str, Any] | None = None, **changes: Any
) -> ImageDataModule:
    """The data module to judge a checkpoint on; prints what the network's training decides about the images.

    Args:
        given: what `parser` made of the command line.
        parser: after `add_data`.
        checkpoint: the file that is judged.
        images: what its network was trained on, `Pretrained.images`; None to look into the file.
        changes: further arguments of the data module, which win; nothing is printed then.

    Raises:
        UserError: neither flags nor run say which data, or the images have other channels than the network takes.
    """
    if given.get("data") is None:
        raise UserError(
            f"On which images? {checkpoint} lies in no run folder with a config.yaml that says so in a class that can "
            "be imported here: give --data NAME, for example --data CIFAR10 --data.path FOLDER."
        )
    known: dict[str, Any] = (read_file(checkpoint).get("images") if images is None else images) or {}
    config = given.clone()
    arguments = config.data.init_args
    taken = {name: known[name] for name in OF_NETWORK if arguments.get(name) is None and known.get(name) is not None}
    for name, value in {**taken, **changes}.items():
        arguments[name] = value
    data: ImageDataModule = parser.instantiate(config).data
    channels = known.get("num_channels") or data.num_channels
    if channels != data.num_channels:
        raise UserError(
            f"{type(data).__name__} has images of {data.num_channels} channel(s), the network of {checkpoint} was "
            f"trained on {channels} ({known.get('data', 'its data')}): choose other data."
        )
    if not changes:
        _tell(data, taken)
    return data


def run_config(checkpoint: str) -> Path | None:
    """The config.yaml of the run that wrote a checkpoint, RUN/config.yaml for RUN/checkpoints/NAME.ckpt.

    None where there is no such file, or it is another program's: a run's says which data it was trained on.
    """
    path = Path(checkpoint)
    config = path.resolve().parent.parent / "config.yaml"
    return config if path.is_file() and config.is_file() and _data_of(config) else None


def _data_of(config: Path) -> dict[str, Any] | None:
    """The data in a run's configuration, its class and arguments; None if the file is no run's."""
    try:
        content = yaml.safe_load(config.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("class_path"), str):
        return None
    return data if isinstance(data.get("init_args") or {}, dict) else None


def _tell(data: ImageDataModule, taken: dict[str, Any]) -> None:
    """Says where the images are shown otherwise than is usual for their data set."""
    usual = {name: getattr(data, f"default_{name}") for name in OF_NETWORK}
    other = {
        name: value for name, value in taken.items() if (tuple(value) if name != "image_size" else value) != usual[name]
    }
    if other:
        told = ", ".join(f"{name} {value}" for name, value in other.items())
        flags = ", ".join(f"--data.{name}" for name in other)
        print(f"Images of {type(data).__name__} as the network was trained on: {told} (for others {flags}).")
