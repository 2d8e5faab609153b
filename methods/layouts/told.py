"""What a file says of its network: data that is checked before anything is built from it."""

import sys
from dataclasses import replace
from typing import Any

from torch import nn

from datamodules.errors import UserError
from methods.backbones import BackboneConfig

OPENING = ("pretrained", "weights", "checkpoint_path", "cache_dir")
"""How the options begin by which torchvision and timm open or download further files."""


def network_told(told: dict[str, Any], path: str) -> BackboneConfig:
    """The network that a file describes, without the library's weights, which the file's own replace.

    Args:
        told: fields of a `BackboneConfig`.
        path: of the file, for messages.

    Raises:
        UserError: other fields, options that open further files, or a class that is no network or not imported yet.
    """
    try:
        config = replace(BackboneConfig(**told), pretrained=False)
        opening = [name for name in config.options if name.startswith(OPENING)]
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path} describes its backbone in another way than this version: give --backbone.") from error
    if opening:
        raise UserError(
            f"{path} asks for a backbone with the option {opening[0]!r}, which opens further files, and that is not "
            "done on the word of a file: where you trust it, give --backbone.name and --backbone.options."
        )
    module, dot, name = str(config.name).rpartition(".")
    if dot and not config.name.startswith("timm/"):
        _check_class(module, name, path)
    return config


def _check_class(module: str, name: str, path: str) -> None:
    """A class path may name a network only, and import nothing: a file is data, it does not say what to run."""
    if module not in sys.modules:
        raise UserError(
            f"{path} asks for the backbone '{module}.{name}', and no module is imported on the word of a file: where "
            "you trust it, give --backbone.name and --backbone.options, or import it before."
        )
    found = getattr(sys.modules[module], name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(
            f"{path} asks for the backbone '{module}.{name}', which is no subclass of torch.nn.Module, and is not "
            "called on the word of a file: where you trust it, give --backbone.name and --backbone.options."
        )
