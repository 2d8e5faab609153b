"""The `config.json` that timm keeps beside its weights, as in its downloads and in exports to the Hugging Face hub."""

import json
from pathlib import Path
from typing import Any

from methods.backbones import BackboneConfig
from methods.layouts.told import network_told


def config_beside(path: str) -> dict[str, Any] | None:
    """The contents of the file beside some weights; None where there is none, or where another program wrote it."""
    beside = Path(path).with_name("config.json")
    if not beside.is_file():
        return None
    try:
        told = json.loads(beside.read_text())
    except ValueError:
        return None
    if not isinstance(told, dict) or not isinstance(told.get("architecture"), str):
        return None
    return told


def network_in(told: dict[str, Any], path: str) -> BackboneConfig:
    """The network as timm would build it: `model_args` count, and `pretrained_cfg` says what they leave open.

    Raises:
        UserError: `model_args` are nothing that may be built.
    """
    prepared, size = _prepared(told)
    options = dict(_entry(told, "model_args", dict) or {})
    channels = options.pop("in_chans", None) or (size[0] if size else 3)
    options.pop("num_classes", None)  # the classifier is left out
    if prepared.get("fixed_input_size") and size:
        options.setdefault("img_size", size[1:])
    if prepared.get("global_pool") is not None:
        options.setdefault("global_pool", prepared["global_pool"])
    return network_told({"name": f"timm/{told['architecture']}", "in_channels": channels, "options": options}, path)


def images_in(told: dict[str, Any]) -> dict[str, Any] | None:
    """What the network was trained on, as `Pretrained.images`, but timm does not name the data; None if unsaid."""
    prepared, size = _prepared(told)
    mean, std = (list(found) if (found := _entry(prepared, name, list)) else None for name in ("mean", "std"))
    side = size[1] if size and size[1] == size[2] else None
    if not (mean or std or side):
        return None
    channels = size[0] if size else None
    return {"mean": mean, "std": std, "image_size": side, "num_channels": channels, "num_classes": None}


def _prepared(told: dict[str, Any]) -> tuple[dict[str, Any], list[int] | None]:
    """`pretrained_cfg`, and the C, H, W that it gives."""
    prepared = _entry(told, "pretrained_cfg", dict) or {}
    size = _entry(prepared, "input_size", list)
    return prepared, size if size and len(size) == 3 and all(isinstance(side, int) for side in size) else None


def _entry(told: dict[str, Any], name: str, kind: type) -> Any:
    """An entry of a kind, None where it is missing, null or of another kind."""
    return told[name] if isinstance(told.get(name), kind) else None
