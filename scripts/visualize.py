"""Pictures of what a network has learned, and of how runs went.

python scripts/visualize.py map runs/version_0/checkpoints/last.ckpt --out map.png
python scripts/visualize.py neighbours runs/version_0/checkpoints/last.ckpt --out neighbours.png
python scripts/visualize.py attention runs/version_0/checkpoints/last.ckpt cat.jpg dog.jpg --out attention.png
python scripts/visualize.py views byol --data CIFAR10 --data.path FOLDER --out views.png
python scripts/visualize.py curves runs/version_0 runs/version_1 --out curves.png

Pictures are PNG, PDF or SVG, by the name that --out gives. A checkpoint's images are those of its run, unless --data
says otherwise.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import Namespace, set_parsing_settings
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, from anywhere
from datamodules import ImageDataModule
from datamodules.augment import RECIPES, CleanView
from datamodules.errors import UserError
from methods.backbones import BackboneConfig
from methods.evaluation.features import extract
from methods.layouts.weights import Part
from methods.pretrained import Pretrained, load_backbone
from scripts.evaluation_data import add_data, data_for
from scripts.look import attention, curves, figures, maps, neighbours, views
from scripts.look.pictures import Shown, class_name, from_files, from_validation
from scripts.look.runs import read_runs
from scripts.parsing import PlainParser, answering_mistakes


def of_checkpoint(parser: PlainParser, words: Sequence[str]) -> None:
    """Adds what all pictures of a network need."""
    parser.add_argument("checkpoint", nargs="?", help="file of the trained network")
    parser.add_argument("--part", type=Part, default="backbone", help="the network that learned, or its teacher")
    parser.add_argument("--backbone", type=BackboneConfig | None, help="the network, for files that do not tell")
    add_data(parser, words)


def load(given: Namespace) -> Pretrained:
    """The network that the flags name.

    Raises:
        UserError: none is named.
    """
    if given.checkpoint is None:
        raise UserError("Of which network? Give its checkpoint, for example runs/version_0/checkpoints/last.ckpt.")
    return load_backbone(given.checkpoint, given.part, given.backbone)


def title_of(trained: Pretrained) -> str:
    """What wrote the file; and which of its networks, where that is not the usual one."""
    return trained.origin + (", teacher" if trained.part == "teacher" else "")


def device() -> torch.device:
    """Where features are made."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def at_least_one(given: Namespace, *names: str) -> None:
    """Refuses numbers of images that are none.

    Raises:
        UserError: naming the flag.
    """
    for name in names:
        if given[name] < 1:
            raise UserError(f"--{name} {given[name]} must be at least 1.")


def map_flags(parser: PlainParser, words: Sequence[str]) -> None:
    of_checkpoint(parser, words)
    parser.add_argument("--method", type=maps.Method, default="tsne", help="how places are found")
    parser.add_argument("--max_images", type=int, default=2000, help="validation images, a fixed random subset")


def draw_map(given: Namespace, parser: PlainParser) -> Figure:
    at_least_one(given, "max_images")
    maps.check(given.method)
    trained = load(given)
    data = data_for(given, parser, given.checkpoint, trained.images)
    h, label, _ = extract(trained.backbone.to(device()), data, "val", device(), given.max_images)
    names = {k: class_name(data, k) for k in label.unique().tolist()}
    note = f"{len(h):,} validation images of {type(data).__name__}; {maps.protocol(h, given.method)}"
    return maps.draw(maps.place(h, given.method), label, names, title_of(trained), note)


def neighbours_flags(parser: PlainParser, words: Sequence[str]) -> None:
    of_checkpoint(parser, words)
    parser.add_argument("--queries", type=int, default=8, help="validation images, evenly drawn")
    parser.add_argument("--k", type=int, default=8, help="neighbours of each")
    parser.add_argument("--max_images", type=int, default=50_000, help="training images, a fixed random subset")


def draw_neighbours(given: Namespace, parser: PlainParser) -> Figure:
    at_least_one(given, "queries", "k", "max_images")
    trained = load(given)
    data = data_for(given, parser, given.checkpoint, trained.images)
    network = trained.backbone.to(device())
    train = extract(network, data, "train", device(), given.max_images)
    val = extract(network, data, "val", device())
    near = neighbours.find(train, val, given.queries, given.k)
    return neighbours.draw(data, train, val, near, given.max_images, title_of(trained))


def attention_flags(parser: PlainParser, words: Sequence[str]) -> None:
    of_checkpoint(parser, words)
    parser.add_argument("images", nargs="*", type=Path, help="pictures of your own, instead of validation images")
    parser.add_argument("--max_images", type=int, default=6, help="validation images, a fixed random subset")


def draw_attention(given: Namespace, parser: PlainParser) -> Figure:
    at_least_one(given, "max_images")
    trained = load(given)
    if given.images:
        shown = own_images(given.images, trained)
    else:
        data = data_for(given, parser, given.checkpoint, trained.images)
        shown = from_validation(data, given.max_images)
    return attention.draw(trained.backbone, shown, title_of(trained))


def own_images(paths: Sequence[Path], trained: Pretrained) -> Shown:
    """Pictures as the network was trained to see them; by ImageNet's mean and deviation where its file does not say."""
    told = {name: value for name, value in (trained.images or {}).items() if value is not None}
    patches = getattr(trained.backbone, "patch_embed", None)
    size = told.get("image_size") or (
        patches.img_size[0] if patches is not None else ImageDataModule.default_image_size
    )
    mean, std = told.get("mean", ImageDataModule.default_mean), told.get("std", ImageDataModule.default_std)
    return from_files(paths, CleanView(size, mean, std), trained.config.in_channels)


def views_flags(parser: PlainParser, words: Sequence[str]) -> None:
    parser.add_argument("what", nargs="?", help="name of a recipe, a configuration (YAML), or a run's folder")
    views.add_data(parser, words)


def draw_views(given: Namespace, parser: PlainParser) -> Figure:
    if given.what is None:
        raise UserError(
            f"Views of what? Give a recipe ({', '.join(sorted(RECIPES))}), a configuration or a run's folder."
        )
    made = views.views_of(given.what)
    if given.data is None:
        raise UserError("On which images? Give --data NAME, for example --data CIFAR10 --data.path FOLDER.")
    data = views.build_data(given.data.as_dict(), made)
    shown = views.sample(data)
    return views.draw(data, shown, given.what)


def curves_flags(parser: PlainParser, words: Sequence[str]) -> None:
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs")
    parser.add_argument("--over", type=curves.Over, default="epochs", help="what the curves run over")


def draw_curves(given: Namespace, parser: PlainParser) -> Figure:
    return curves.draw(read_runs(given.runs), given.over)


PICTURES = {
    "map": (map_flags, draw_map, "validation images, those close together that the network finds similar"),
    "neighbours": (neighbours_flags, draw_neighbours, "validation images and the nearest training images of each"),
    "attention": (attention_flags, draw_attention, "where the last block of a vision transformer looks"),
    "views": (views_flags, draw_views, "images and the views that a recipe makes of them"),
    "curves": (curves_flags, draw_curves, "loss, kNN and probe of several runs"),
}


def main() -> None:
    sys.path.append(os.getcwd())  # classes in the user's own folder
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    words = sys.argv[1:]
    parsers: dict[str, PlainParser] = {}
    parser = PlainParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subcommands(dest="picture")
    for name, (add_flags, _, told) in PICTURES.items():
        parsers[name] = PlainParser(description=f"Draws {told}.")
        if words[:1] == [name]:  # the flags of the others would cost time, and look for files among these words
            add_flags(parsers[name], words[1:])
        parsers[name].add_argument("--out", type=Path, default=Path(f"{name}.png"), help="PNG, PDF or SVG to write")
        commands.add_subcommand(name, parsers[name], help=told)
    with answering_mistakes():
        given = parser.parse_args()
        flags = given[given.picture]
        figures.check_out(flags.out)
        with figures.style():
            figures.save(PICTURES[given.picture][1](flags, parsers[given.picture]), flags.out)


if __name__ == "__main__":
    main()
