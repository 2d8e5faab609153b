"""The model card: what a user has to know of the weights, and nothing that is not known."""

from methods.pretrained import Pretrained
from scripts.exporting.check import Deviation
from scripts.exporting.images import side
from scripts.exporting.provenance import Provenance, exporter

HUB_HEADER = """---
library_name: timm
pipeline_tag: image-feature-extraction
tags:
- image-feature-extraction
- timm
- self-supervised-learning
---
"""


def card(
    pretrained: Pretrained, known: Provenance, name: str, code: str, deviation: Deviation, header: str = ""
) -> str:
    """The card as Markdown.

    Args:
        pretrained: the network.
        known: where it comes from.
        name: of the file or folder, its title.
        code: the lines that load it.
        deviation: what the round trip found.
        header: goes before it.
    """
    shapes = " and ".join(str(list(shape)) for shape in deviation.shapes)
    C = deviation.shapes[0][1]
    images = f"float32 [B, {C}, H, W]" + (", prepared as the table says" if _normalisation(pretrained) else "")
    return header + "\n".join(
        [
            f"# {name}",
            "",
            "A feature extractor for images, without a classifier.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {label} | {_cell(fact)} |" for label, fact in facts(pretrained, known).items()),
            "",
            "## Load",
            "",
            f"`images` are {images}, `features` [B, {pretrained.backbone.feature_dim}].",
            "",
            "```python",
            code.rstrip(),
            "```",
            "",
            f"Checked when it was written: on random images {shapes} these lines give the trained network's features, "
            f"with a largest difference of {deviation.largest:.1e}.",
            "",
            "## Accuracy",
            "",
            *accuracy(pretrained, known),
            "",
        ]
    )


def facts(pretrained: Pretrained, known: Provenance) -> dict[str, str]:
    """Label -> what is known."""
    config, network, images = pretrained.config, pretrained.backbone, pretrained.images or {}
    size = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    layer = f"3x3, stride 1, padding {config.stem_padding}"
    stem = f", stem for small images ({layer}, no max-pooling)" if config.small_images else ""
    norm = ", GroupNorm and weight-standardised convolutions" if pretrained.batch_norm == "none" else ""
    options = f", options {config.options}" if config.options else ""
    pixels = side(pretrained)
    length = f"{known.step} optimiser steps" if known.step else ""
    rows = {
        "Method": known.method or "",
        "Paper": known.paper or "",
        "Written by": "" if known.method else pretrained.origin,
        "Part": "teacher, the slow average of the trained network" if pretrained.part == "teacher" else "backbone",
        "Network": f"{config.name}{options}{stem}{norm}",
        "Size": f"{size:.2f} M parameters, {network.feature_dim} features",
        "Trained on": images.get("data") or "",
        "Image size": f"{pixels} x {pixels} pixels" if pixels else "",
        "Normalisation": _normalisation(pretrained),
        "Trained for": length,
        "Configuration": f"config.yaml, SHA-256 {known.config_hash}..." if known.config_hash else "",
        "Exported by": exporter(),
    }
    return {label: fact for label, fact in rows.items() if fact}


def accuracy(pretrained: Pretrained, known: Provenance) -> list[str]:
    """Figures with their protocol, or why there are none."""
    if not known.figures:
        return [f"Not measured: {known.unmeasured}."]
    data = (pretrained.images or {}).get("data")
    where = f"on the validation images of {data}" if data else "on the validation images of its training data"
    lines = [f"- {label}: {value:.1%}" for label, value in known.figures.items()]
    notes = [f"Measured by the run itself at its last validation, {where}."]
    if known.protocol:
        notes.append(f"kNN: {known.protocol}.")
    if "online linear probe top-1" in known.figures:
        notes.append("The online probe is a linear layer that learns beside the network, on its augmented views.")
    return [*lines, "", " ".join(notes)]


def _normalisation(pretrained: Pretrained) -> str:
    images = pretrained.images or {}
    mean, std = images.get("mean"), images.get("std")
    if not (mean and std):
        return ""
    return f"intensities in [0, 1], less the mean {mean}, divided by the standard deviation {std}, for each channel"


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
