"""A map of the features: images that the network finds similar lie close together."""

from importlib.util import find_spec
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.report.embedding import NoSpreadError, project
from callbacks.report.palette import CLASSES, class_colour
from datamodules.errors import UserError
from scripts.look.figures import BODY, Sheet, shortened, text_width

Method = Literal["tsne", "umap", "pca"]
NAMES = {"tsne": "t-SNE", "umap": "UMAP", "pca": "PCA"}
NEIGHBOURS = 15  # of UMAP, its library's default
_MARKS = "os^DvP"  # two for every ten classes, in turn: fewer colours to tell apart, which repeat after ten
_NAMED = len(_MARKS) // 2 * len(CLASSES)
_SIDE, _ROW, _LONGEST = 6.0, 0.2, 1.9  # inches of the map, of a line of the legend, and of the longest name in it


def place(h: Tensor, method: Method) -> np.ndarray:
    """[N, 2] places in the unit square for features [N, D], which are compared by direction.

    Raises:
        UserError: there are too few features, or they are all the same.
    """
    if len(h) < 8:
        raise UserError(f"{len(h)} images are too few for a map; it needs at least 8.")
    if method == "umap":
        return _umap(h)
    try:
        return project(h.cpu())[NAMES[method]]
    except NoSpreadError:
        raise UserError(
            "There is no map to draw: the features are all the same, or not finite. The representation has collapsed."
        ) from None


def check(method: Method) -> None:
    """Refuses before the features are made what could not place them.

    Raises:
        UserError: UMAP is not installed.
    """
    if method == "umap" and find_spec("umap") is None:
        raise UserError(
            "--method umap needs the package umap-learn, which is not installed: pip install umap-learn, or take "
            "--method tsne."
        )


def _umap(h: Tensor) -> np.ndarray:
    from umap import UMAP  # pyright: ignore[reportMissingImports]

    placed = UMAP(n_neighbors=min(NEIGHBOURS, len(h) - 1), metric="cosine", random_state=0).fit_transform(h.cpu())
    middle = (placed.max(0) + placed.min(0)) / 2
    return 0.5 + (placed - middle) / max(float(np.ptp(placed, axis=0).max()), 1e-12)


def protocol(h: Tensor, method: Method) -> str:
    """How the places were found."""
    N = len(h)
    if method == "pca":
        return "PCA of the features, each scaled to length 1."
    setting = f"perplexity {min(30.0, (N - 1) / 3):.3g}" if method == "tsne" else f"{min(NEIGHBOURS, N - 1)} neighbours"
    return f"{NAMES[method]} of the features by cosine, {setting}. How far apart the groups lie means nothing."


def draw(places: np.ndarray, label: Tensor, names: dict[int, str], title: str, note: str) -> Figure:
    """A dot for each image, coloured by class, and the classes' names beside them.

    Args:
        places: [N, 2] in the unit square.
        label: [N] int64, -1 where unknown.
        names: name of each label.
        title: of the picture.
        note: how it was made.
    """
    labels = label.tolist()
    classes = sorted(set(labels) - {-1})
    named = classes[:_NAMED]
    if len(named) < len(classes):
        note += f" {len(named)} of {len(classes)} classes are named; the others share their marks."
    beside = 0.4 + min(_LONGEST, max(text_width(names[k], BODY) for k in named)) if named else 0.0
    sheet = Sheet(_SIDE + beside, _SIDE, title, note)
    axes = sheet.axes(0, 0, _SIDE, _SIDE)
    order = np.random.default_rng(0).permutation(len(labels))  # of the drawing: no class lies on top of the others
    size = float(np.clip(30 * (1000 / len(labels)) ** 0.5, 6, 60))
    for mark in _MARKS:
        rows = [i for i in order.tolist() if _mark(labels[i]) == mark]
        colours = [class_colour(labels[i]) for i in rows]
        axes.scatter(*places[rows].T, s=size, c=colours, marker=mark, alpha=0.85, edgecolors="white", linewidths=0.4)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=[], yticks=[])
    if named:
        _legend(sheet.axes(_SIDE, 0, beside, _SIDE), beside, named, names)
    return sheet.figure


def _mark(label: int) -> str:
    return _MARKS[(label // len(CLASSES) * 2 + label % 2) % len(_MARKS)] if label >= 0 else _MARKS[0]


def _legend(axes: Axes, width: float, named: list[int], names: dict[int, str]) -> None:
    """Mark and name of each class, from the top down."""
    for i, k in enumerate(named):
        y = _ROW * (i + 0.5)
        axes.plot(0.22, y, _mark(k), color=class_colour(k), markersize=6)
        axes.text(0.35, y, shortened(names[k], _LONGEST, BODY), va="center_baseline", size=BODY)
    axes.set(xlim=(0, width), ylim=(_SIDE, 0))
    axes.set_axis_off()
