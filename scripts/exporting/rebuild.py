"""The lines of Python that rebuild a network where its weights are taken to.

They are shown to the user and run by the round trip, so what is shown is what was checked. A name or option out of a
stranger's checkpoint enters them only as a literal or an identifier.
"""

import ast
import json
from dataclasses import fields, replace
from typing import Any, Literal, NamedTuple

import torchvision
from torch import nn

from datamodules.errors import UserError
from methods.backbones import BackboneConfig, build_backbone
from methods.pretrained import Pretrained

Library = Literal["torchvision", "timm"]


class UnfitError(Exception):
    """Why a format cannot hold a network, as the end of a sentence."""


class Lines(NamedTuple):
    """Python in two parts: what it imports, and what makes `network` from it, without its weights yet."""

    imports: list[str]
    body: list[str]


def lines_in(library: Library, pretrained: Pretrained) -> Lines:
    """How a library builds the network.

    Raises:
        UnfitError: it cannot.
    """
    config = config_in(library, pretrained)
    lines = _torchvision_lines if library == "torchvision" else _timm_lines
    return lines(config, pretrained.backbone)


def lines_anywhere(pretrained: Pretrained) -> Lines:
    """How the network is built, with the fewest things: its own library, its own class, or else this project."""
    config, converted = pretrained.config, pretrained.batch_norm == "none"
    library = library_of(config.name)
    if library in ("torchvision", "timm") and not converted:
        return lines_in(library, pretrained)
    if library == "own":
        module, _, name = config.name.rpartition(".")
        lines = Lines([f"from {_path(module)} import {_path(name)}"], [f"network = {_call(name, **config.options)}"])
    else:
        lines = Lines(
            ["from methods.backbones import BackboneConfig, build_backbone  # of Parallax, in its folder"],
            [f"network = build_backbone({_call('BackboneConfig', **_changed(config))})"],
        )
    if converted:
        lines.imports.append("from methods.modules import convert_norms  # of Parallax")
        lines.body.append('network = convert_norms(network, "none")')
    return lines


def library_of(name: str) -> Literal["torchvision", "timm", "convnet", "own"]:
    """Where `build_backbone` takes a network of this name from."""
    if name == "convnet":
        return "convnet"
    if "." in name and not name.startswith("timm/"):
        return "own"
    return "torchvision" if name in torchvision.models.list_models(module=torchvision.models) else "timm"


def config_in(library: Library, pretrained: Pretrained) -> BackboneConfig:
    """The network under a library's name for it: ResNets and others have the same layers in both.

    Raises:
        UnfitError: the library does not have it.
    """
    config = pretrained.config
    home = library_of(config.name)
    if pretrained.batch_norm == "none":
        raise UnfitError(f"its BatchNorm was converted to GroupNorm (batch_norm: none), which {library} does not have")
    if home not in ("torchvision", "timm"):
        raise UnfitError(f"{library} does not have that network")
    if home == library:
        return config
    name = config.name.removeprefix("timm/").partition(".")[0]
    other = replace(config, name=f"timm/{name}" if library == "timm" else name, options={})
    try:
        same = library_of(other.name) == library and _shapes(build_backbone(other)) == _shapes(pretrained.backbone)
    except UserError:
        same = False
    if not same:
        raise UnfitError(f"{library} has no network of the same layers and parameter names under that name")
    return other


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _torchvision_lines(config: BackboneConfig, network: Any) -> Lines:
    body = [f"network = {_call(f'torchvision.models.{config.name}', **config.options)}", _headless(network)]
    if config.small_images or config.in_channels != 3:
        body += _stem(config, network)
    return Lines(["import torch", "import torchvision"], body)


def _headless(network: nn.Module) -> str:
    """The line that takes torchvision's classifier away; layers of it that the features go through stay."""
    place = next(part for part in ("fc", "classifier", "heads", "head") if hasattr(network, part))
    left = getattr(network, place)
    if isinstance(left, nn.Sequential):
        return f"network.{place} = network.{place}[:{len(left)}]  # no classifier"
    return f"network.{place} = torch.nn.Identity()  # no classifier"


def _timm_lines(config: BackboneConfig, network: Any) -> Lines:
    name, channels = config.name.removeprefix("timm/"), config.in_channels
    body = [f"network = {_call('timm.create_model', name, num_classes=0, in_chans=channels, **config.options)}"]
    if config.small_images:
        body += _stem(config, network)
    return Lines(["import timm", "import torch"], body)


def _stem(config: BackboneConfig, network: Any) -> list[str]:
    """The lines that give a ResNet the first layers of this one."""
    first = network.conv1
    sizes = {"kernel_size": first.kernel_size[0], "stride": first.stride[0], "padding": first.padding[0]}
    layer = _call("torch.nn.Conv2d", first.in_channels, first.out_channels, **sizes, bias=False)
    pooling = ["network.maxpool = torch.nn.Identity()"] if config.small_images else []
    return [f"network.conv1 = {layer}", *pooling]


def _changed(config: BackboneConfig) -> dict[str, Any]:
    """The fields of a configuration that differ from a new one's, and its name."""
    usual = BackboneConfig()
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: value for name, value in values.items() if name == "name" or value != getattr(usual, name)}


def _call(function: str, /, *args: Any, **options: Any) -> str:
    """The text of a call with literal arguments."""
    given = [*map(literal, args), *(f"{_path(name)}={literal(value)}" for name, value in options.items())]
    return f"{_path(function)}({', '.join(given)})"


def literal(value: Any) -> str:
    """Python's text of a plain value.

    Raises:
        UserError: it is not plain, and its text might be read as code.
    """
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)  # strings in double quotes
    try:
        same = ast.literal_eval(text) == value
    except (ValueError, SyntaxError):
        same = False
    if not same:
        raise UserError(f"The network's options hold {value!r}, which is no plain value: it cannot be exported.")
    return text


def _path(name: str) -> str:
    """A dotted name, for code.

    Raises:
        UserError: it is none.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"The network's configuration holds the name {name!r}, which is none in Python.")
    return name
