"""What a recipe makes of images: a row for each image, a column for each view."""

import pydoc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

import methods
from callbacks.report.sample import AUGMENTED, ViewSample
from datamodules import ImageDataModule
from datamodules.augment import RECIPES
from datamodules.errors import UserError
from scripts.look.figures import Cell, picture_sheet
from scripts.look.pictures import as_array, class_name, clean_pictures
from scripts.parsing import PlainParser, nearest


def read_config(what: str) -> dict[str, Any] | None:
    """The configuration that a word of the command line names, a YAML file or a run's folder; None for other words.

    Raises:
        UserError: the file is no configuration.
    """
    path = Path(what) / "config.yaml" if Path(what).is_dir() else Path(what)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return None
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(config, dict) or not {"model", "data"} & set(config):
        raise UserError(f"{path} is no configuration of a run: it says neither `model` nor `data`.")
    return config


def add_data(parser: PlainParser, words: Sequence[str]) -> None:
    """Adds `--data` and its flags, with the data of a configuration among the words as default."""
    parser.add_subclass_arguments(ImageDataModule, "data", required=False)
    if any(word == "--data" or word.startswith("--data=") for word in words):
        return
    block = next((config["data"] for word in words if (config := read_config(word)) and config.get("data")), None)
    if block:
        parser.set_defaults({"data": {**_as_class(block), "init_args": _arguments(block)}})


def views_of(what: str) -> str | list[dict[str, Any]]:
    """The recipe's name or its views spelled out, for `--data.views`.

    Args:
        what: name of a recipe, a configuration, or a run's folder.

    Raises:
        UserError: it is none of them, or the configuration's method is not known.
    """
    if what in RECIPES:
        return what
    config = read_config(what)
    if config is None:
        raise UserError(
            f"{what!r} is no recipe, configuration or run's folder. {nearest(what, sorted(RECIPES), show_all=True)}"
        )
    if views := _arguments(config.get("data") or {}, "views").get("views"):
        return views
    path = _as_class(config.get("model") or "")["class_path"]
    method = getattr(methods, path.rpartition(".")[2], None) or pydoc.locate(path)
    if not hasattr(method, "recipe"):
        raise UserError(f"{what} says no data.views, and the recipe of its model {path!r} is not known here.")
    return method.recipe  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


def build_data(block: dict[str, Any], views: str | list[dict[str, Any]]) -> ImageDataModule:
    """The data module of a configuration's block, with other views and batches no larger than the picture."""
    arguments = {**(block.get("init_args") or {}), "views": views, "batch_size": AUGMENTED, "num_workers": 0}
    parser = PlainParser()
    parser.add_subclass_arguments(ImageDataModule, "data", required=True)
    return parser.instantiate(parser.parse_object({"data": {**block, "init_args": arguments}})).data


def sample(data: ImageDataModule) -> ViewSample:
    """The views of the first training images, as a run would see them in its first epoch."""
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    views = data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
    return ViewSample(views, data)


def draw(data: ImageDataModule, shown: ViewSample, name: str) -> Figure:
    """Each image before augmentation, then its global and local views, enlarged by one factor.

    Args:
        data: after `setup`.
        shown: as by `sample`.
        name: of the recipe, or path of the configuration.
    """
    clean = clean_pictures(data, "train", shown.index)
    V = shown.num_global
    heads = ["image", *(f"global {v + 1}" if v < V else f"local {v - V + 1}" for v in range(len(shown.views)))]
    rows, names = [], []
    for i, (index, label) in enumerate(zip(shown.index.tolist(), shown.label.tolist(), strict=True)):
        image = Cell(clean[index]) if index in clean else None
        rows.append([image, *(Cell(as_array(view[i])) for view in shown.views)])
        names.append(class_name(data, label) if label >= 0 else f"image {index}")
    title = "/".join(Path(name).resolve().parts[-2:]) if name not in RECIPES else f"the recipe {name}"
    return picture_sheet(rows, f"Views of {title}", _note(data), heads, names, apart=True)


def _note(data: ImageDataModule) -> str:
    sizes = {}
    for spec in data.specs:
        sizes[spec.size, spec.role] = sizes.get((spec.size, spec.role), 0) + spec.count
    told = " and ".join(f"{count} {role} of {size} px" for (size, role), count in sizes.items())
    return (
        f"{AUGMENTED} training images of {type(data).__name__}, each with its views in the first epoch: {told}. All "
        "are enlarged alike."
    )


def _as_class(block: Any) -> dict[str, Any]:
    """A class as configurations give it, by its name alone or with arguments."""
    return {"class_path": block if isinstance(block, str) else block.get("class_path", "")}


def _arguments(block: Any, *only: str) -> dict[str, Any]:
    """Its arguments; without the views, unless these are asked for."""
    found = block.get("init_args") or {} if isinstance(block, dict) else {}
    return {name: value for name, value in found.items() if (name in only if only else name != "views")}
