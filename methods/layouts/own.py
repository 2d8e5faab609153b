"""This project's own checkpoints and exports: what they say of their images, and where their networks are."""

import json
from typing import Any

from datamodules.errors import UserError
from methods.backbones import BackboneConfig
from methods.layouts.files import METADATA
from methods.layouts.told import network_told
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


def is_export(file: dict[str, Any]) -> bool:
    """Whether `scripts/export.py` wrote the file, to safetensors: its metadata say the backbone."""
    metadata = file.get(METADATA)
    return isinstance(metadata, dict) and {"origin", "part", "backbone", "batch_norm"} <= metadata.keys()


def exported_weights(file: dict[str, Any], path: str, part: Part, given: BackboneConfig | None) -> Weights:
    """The same of an export, which holds one network, under its own names.

    Raises:
        UserError: it holds the other part, or its metadata are not what is written.
    """
    told: dict[str, str] = file[METADATA]
    if part != told["part"]:
        raise UserError(f"{path} is an export of the {told['part']} alone: take the {told['part']}.")
    try:
        backbone, images = json.loads(told["backbone"]), json.loads(told.get("images", "null"))
        config = given or network_told(dict(backbone), path)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} has metadata that are not those of an export: give another file.") from error
    return Weights(
        origin=told["origin"],
        tensors={name: tensor for name, tensor in file.items() if name != METADATA},
        config=config,
        batch_norm=told["batch_norm"],
        images=images,
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
        origin=f"{method}, step {file.get('global_step')}",
        tensors={key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)},
        config=given or network_told(saved["backbone"], path),
        batch_norm="none" if saved["batch_norm"] == "none" else "local",
        images=file.get("images"),
    )


def _teacher(tensors: dict[str, Any]) -> str | None:
    """Prefix of the network that has all the backbone's tensors a second time, `teacher.backbone.` in our methods."""
    names = [key.removeprefix("backbone.") for key in tensors if key.startswith("backbone.")]
    found = {key.removesuffix(names[0]) for key in tensors if key.endswith(f"backbone.{names[0]}")} - {"backbone."}
    whole = [prefix for prefix in sorted(found) if all(prefix + name in tensors for name in names)]
    return max(whole, key=lambda prefix: "teacher" in prefix, default=None)
