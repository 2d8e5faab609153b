"""This project's own checkpoints: what they say of their images, and where their networks are."""

import importlib
from dataclasses import replace
from typing import Any

from torch import nn

from datamodules.errors import UserError
from methods.backbones import BackboneConfig
from methods.layouts.weights import Part, Weights

DESCRIBED = ("mean", "std", "image_size", "num_channels", "num_classes")
"""Attributes of a data module that tell how its images were prepared."""


def images_of(data: Any) -> dict[str, Any] | None:
    """What a network is trained on, as plain data for its checkpoint; None without a data module.

    Args:
        data: a data module, also of a user's own; attributes that it lacks are None.
    """
    if data is None:
        return None
    return {"data": type(data).__name__} | {name: _plain(getattr(data, name, None)) for name in DESCRIBED}


def _plain(value: Any) -> Any:
    """Numbers and lists of numbers; None for anything else, which `weights_only` might not read."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, int | float) else None


def is_own(file: dict[str, Any]) -> bool:
    """Whether a method of this project wrote the file: it says its backbone and what became of BatchNorm."""
    hyper_parameters = file.get("hyper_parameters")
    return (
        isinstance(hyper_parameters, dict)
        and isinstance(hyper_parameters.get("backbone"), dict)
        and isinstance(hyper_parameters.get("batch_norm"), str)
        and isinstance(file.get("state_dict"), dict)
    )


def own_weights(file: dict[str, Any], path: str, part: Part, given: BackboneConfig | None) -> Weights:
    """The tensors of the backbone or of its teacher, and the network that they belong to.

    Args:
        file: as read.
        path: of the file, for messages.
        part: which network.
        given: another network than the file says, as for images of another size.

    Raises:
        UserError: a teacher is asked for, and the method has none; or the file's backbone is nothing to build.
    """
    saved, tensors = file["hyper_parameters"], file["state_dict"]
    method = str(file.get("method") or saved.get("_class_path") or "a method of this project").rpartition(".")[2]
    prefix = "backbone."
    if part == "teacher":
        teacher = _teacher(tensors)
        if teacher is None:
            raise UserError(f"{path}: {method} has no teacher: take the backbone.")
        prefix = teacher
    return Weights(
        origin=f"{method}, epoch {file.get('epoch')}, step {file.get('global_step')}",
        tensors={key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)},
        config=given or _saved_config(saved["backbone"], path),
        batch_norm="none" if saved["batch_norm"] == "none" else "local",
        images=file.get("images"),
    )


def _saved_config(saved: dict[str, Any], path: str) -> BackboneConfig:
    """The file's backbone. A class path in it may name a network only: a file is data, it does not say what to call."""
    try:
        config = replace(BackboneConfig(**saved), pretrained=False)
    except TypeError as error:
        raise UserError(f"{path} describes its backbone in another way than this version: give --backbone.") from error
    module, dot, name = str(config.name).rpartition(".")
    if not dot or config.name.startswith("timm/"):
        return config
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return config  # `build_backbone` tells of it
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(
            f"{path} asks for the backbone {config.name!r}, which is no subclass of torch.nn.Module, and is not called "
            "on the word of a file: where you trust it, give --backbone.name and --backbone.options."
        )
    return config


def _teacher(tensors: dict[str, Any]) -> str | None:
    """Prefix of the network that has all the backbone's tensors a second time, `teacher.backbone.` in our methods."""
    names = [key.removeprefix("backbone.") for key in tensors if key.startswith("backbone.")]
    found = {key.removesuffix(names[0]) for key in tensors if key.endswith(f"backbone.{names[0]}")} - {"backbone."}
    whole = [prefix for prefix in sorted(found) if all(prefix + name in tensors for name in names)]
    return max(whole, key=lambda prefix: "teacher" in prefix, default=None)
