"""The sections about pictures: views, reconstructions, map of the features, neighbours."""

import json
from html import escape

import numpy as np
import torch
from torch import Tensor

from callbacks.pictures import contact_sheet, data_uri
from callbacks.report.embedding import NoSpreadError, confused_pairs, neighbours, project
from callbacks.report.palette import class_colour
from callbacks.report.record import Record, UnavailableError
from callbacks.report.sample import VIEW, ValidationSample, clean_images

_LEGEND = 40  # classes named beside the map; the pointer names them all
_COLUMNS = 32  # pictures in a row of the contact sheet
_NEIGHBOURS = 6
_QUERIES = 8


def views(record: Record) -> str:
    """A few training images, each beside the views that were made of it."""
    sample = record.views
    if sample is None:
        raise UnavailableError("No training batch of `Views` passed, so there are no augmented images to show.")
    clean = clean_images(record.data, sample.index, record.device) if hasattr(record.data, "clean_batches") else {}
    rows = {f"view {v + 1}": view for v, view in enumerate(sample.views[: sample.num_global])}
    rows |= {f"local {v + 1}": view for v, view in enumerate(sample.views[sample.num_global :])}
    names = [
        escape(record.class_name(label)) if label >= 0 else f"image {index}"
        for index, label in zip(sample.index.tolist(), sample.label.tolist(), strict=True)
    ]
    lines = [_table_row("", names, "th")]
    if clean:
        lines.append(_table_row("image", [_picture(clean[i]) if i in clean else "" for i in sample.index.tolist()]))
    lines += [_table_row(name, [_picture(image) for image in view]) for name, view in rows.items()]
    table = _picture_table(lines, [view[0] for view in sample.views])
    return table if clean else table + "<p>The images before augmentation could not be found in a few seconds.</p>"


def reconstructions(record: Record) -> str:
    """Validation images, what the network sees of them, and what it made of them as training went on."""
    monitor = record.reconstructions
    if monitor is None or monitor.images is None or monitor.given is None:
        return ""
    rows = [("image", monitor.images), ("given", monitor.given)]
    rows += [(f"epoch {made['epoch'] + 1}: {made['error']:.3f}", made["pixels"]) for made in monitor.made]
    lines = [_table_row(name, [_picture(image) for image in images]) for name, images in rows]
    return (
        "<p>The same validation images at several points of training, the newest at the bottom. Beside the epoch: "
        f"the mean squared error on what was hidden, in units of the loss. {escape(monitor.caption)}</p>"
        f"{_picture_table(lines, list(monitor.images))}"
    )


def _picture_table(lines: list[str], images: list[Tensor]) -> str:
    """Rows of pictures, all enlarged by one factor, so that sizes compare."""
    zoom = min(3.0, VIEW / max(max(image.shape[1:]) for image in images))
    return f'<div class="scroll"><table class="views" style="--zoom:{zoom:.3f}">{"".join(lines)}</table></div>'


def _table_row(head: str, cells: list[str], kind: str = "td") -> str:
    return f"<tr><th>{head}</th>{''.join(f'<{kind}>{cell}</{kind}>' for cell in cells)}</tr>"


def feature_map(record: Record) -> str:
    """Validation images placed so that those which the network finds similar are close."""
    sample = _sample(record, at_least=8)
    try:
        maps = project(sample.features)
    except NoSpreadError:
        raise UnavailableError("All validation features are the same: the representation has collapsed.") from None
    labels = sample.label.tolist()
    classes = sorted(set(labels))
    height, width = sample.thumbnails.shape[2:]
    content = {
        "label": [classes.index(label) for label in labels],
        "names": [record.class_name(label) for label in classes],
        "sheet": {"columns": _COLUMNS, "width": width, "height": height},
    }
    coloured = ", coloured by class" if classes != [-1] else ""
    return (
        f"<p>{len(sample):,} validation images{coloured}. Point at one to see it. In t-SNE, which images are close "
        "together means something; how far apart the groups lie does not.</p>"
        f'<div class="map" data-map="{escape(json.dumps(content, separators=(",", ":")))}">'
        f'<div class="classes">{_class_legend(record, classes)}</div>'
        f'<div class="maps">{"".join(_scatter(name, points, labels) for name, points in maps.items())}</div>'
        f'<img class="sheet" hidden alt="" src="{contact_sheet(sample.thumbnails, _COLUMNS)}"></div>'
    )


def _scatter(name: str, points: np.ndarray, labels: list[int]) -> str:
    """One map: a dot for each image, in the order of the sample."""
    dots = "".join(
        f'<circle cx="{20 + 600 * x:.1f}" cy="{20 + 600 * y:.1f}" r="5.5" style="fill:{class_colour(label)}"/>'
        for (x, y), label in zip(points, labels, strict=True)
    )
    return f'<figure><figcaption>{name}</figcaption><svg viewBox="0 0 640 640" role="img">{dots}</svg></figure>'


def _class_legend(record: Record, classes: list[int]) -> str:
    """Buttons that single out one class."""
    if classes == [-1]:
        return ""
    entries = [
        f'<button type="button" data-class="{k}"><i style="background:{class_colour(label)}"></i>'
        f"{escape(record.class_name(label))}</button>"
        for k, label in enumerate(classes[:_LEGEND])
    ]
    if len(classes) > _LEGEND:
        entries.append(f"<span>and {len(classes) - _LEGEND} more, which share these colours</span>")
    return "".join(entries)


def nearest(record: Record) -> str:
    """Some validation images with those that the network finds most like them."""
    sample = _sample(record, at_least=2)
    if not torch.isfinite(sample.features).all():
        raise UnavailableError("The validation features are not finite, so no image has neighbours.")
    near = neighbours(sample.features, _NEIGHBOURS)
    foreign = (sample.label[near] != sample.label[:, None]).double().mean(1)
    foreign[sample.label < 0] = 0
    typical = torch.linspace(0, len(sample) - 1, min(_QUERIES, len(sample))).long()
    parts = ["<h3>Evenly drawn</h3>", _sheet(record, sample, typical, near)]
    if foreign.max() > 0:
        confused = foreign.argsort(descending=True, stable=True)[:_QUERIES]
        confused = confused[foreign[confused] > 0]
        parts += ["<h3>Most confusable</h3>", _pairs(record, near, sample.label)]
        parts.append(_sheet(record, sample, confused, near))
    return (
        f"<p>Each image on the left, then the {near.shape[1]} most similar of {len(sample):,} validation images, by "
        "cosine. A dashed red frame marks a neighbour of another class.</p>" + "".join(parts)
    )


def _pairs(record: Record, near: Tensor, label: Tensor) -> str:
    pairs = [
        f"{escape(record.class_name(a))} and {escape(record.class_name(b))} ({share:.0%})"
        for a, b, share in confused_pairs(near, label)[:5]
    ]
    return f"<p>Classes found among each other's neighbours most often: {', '.join(pairs)}.</p>"


def _sheet(record: Record, sample: ValidationSample, queries: Tensor, near: Tensor) -> str:
    """A row for each query: itself, then its neighbours."""
    rows = []
    for query in queries.tolist():
        label = int(sample.label[query])
        cells = [_captioned(record, sample, query, "")]
        for neighbour in near[query].tolist():
            other = int(sample.label[neighbour])
            kind = "" if label < 0 or other < 0 else "same" if other == label else "other"
            cells.append(_captioned(record, sample, neighbour, kind))
        rows.append(f'<div class="row">{"".join(cells)}</div>')
    return f'<div class="neighbours">{"".join(rows)}</div>'


def _captioned(record: Record, sample: ValidationSample, i: int, kind: str) -> str:
    label = int(sample.label[i])
    name = escape(record.class_name(label)) if label >= 0 else ""
    return f'<figure class="{kind}">{_picture(sample.thumbnails[i])}<figcaption>{name}</figcaption></figure>'


def _picture(image: Tensor) -> str:
    """A picture at its own proportions, the small ones enlarged."""
    return f'<img alt="" style="--w:{image.shape[2]}" src="{data_uri(image)}">'


def _sample(record: Record, at_least: int) -> ValidationSample:
    sample = record.sample
    if sample is None or len(sample) < at_least:
        count = 0 if sample is None else len(sample)
        raise UnavailableError(f"{count} validation images gave features; this needs at least {at_least}.")
    return sample
