"""Checkpoints of other people's code: where each keeps its backbone, as a table.

The facts were read in the code that writes the files: facebookresearch/{moco, moco-v3, simsiam, swav, barlowtwins,
vicreg, dino, mae}, lucidrains/byol-pytorch, sthalles/PyTorch-BYOL, yaox12/BYOL-PyTorch, vturrisi/solo-learn and
lightly-ai/lightly.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from datamodules.errors import UserError
from methods.backbones import BackboneConfig
from methods.layouts.networks import network_of
from methods.layouts.timm_folder import config_beside, images_in, network_in
from methods.layouts.weights import Part, Weights


@dataclass(frozen=True)
class Layout:
    """Where a program keeps its networks.

    Attributes:
        name: for people.
        backbone: how the names of the backbone's tensors begin, as `tensors_of` gives them.
        teacher: the same for its slow copy, None where there is none.
        marks: beginnings of other names, each of which must be there too, of several together one: they tell it from
            layouts that begin alike.
        heads_of: attention heads of ViTs by width, where they are other than is usual; 0 where both are found.
        small_stem_padding: of the 3x3 convolution that it gives ResNets for small images.
    """

    name: str
    backbone: str
    teacher: str | None = None
    marks: tuple[str | tuple[str, ...], ...] = ()
    heads_of: tuple[tuple[int, int], ...] = ()
    small_stem_padding: int = 1


SOLO: Any = {
    # Other people's modules have a classifier too; each of its methods has a projector, a slow copy or MAE's decoder.
    "marks": ("classifier.", ("momentum_", "projector.", "decoder.decoder_embed.")),
    "heads_of": ((192, 0), (384, 0)),
    "small_stem_padding": 2,
}
"""solo-learn: an online classifier in every method; MoCo v3's small ViTs have more heads there than the others'."""

LAYOUTS = (  # the first that fits counts
    Layout("solo-learn", "backbone.", "momentum_backbone.", **SOLO),
    Layout("solo-learn", "encoder.", "momentum_encoder.", **SOLO),  # before 1.0.4
    Layout("MoCo v1 or v2 (official layout)", "encoder_q.", "encoder_k."),
    Layout("MoCo v3 (official layout)", "base_encoder.", "momentum_encoder.", heads_of=((384, 12),)),
    Layout("BYOL (layout of lucidrains)", "online_encoder.net.", "target_encoder.net."),
    Layout("BYOL (layout of yaox12)", "online_network.encoder.", "target_network.encoder."),
    Layout("BYOL (layout of sthalles)", "online_network_state_dict/encoder.", "target_network_state_dict/encoder."),
    Layout("DINO (official layout)", "student/backbone.", "teacher/backbone."),
    Layout("lightly", "student_backbone.vit.", "teacher_backbone.vit."),
    Layout("lightly", "student_backbone.", "teacher_backbone."),
    Layout("lightly", "backbone.vit."),
    Layout("lightly", "backbone.", "backbone_momentum.", marks=(("backbone.0.", "backbone_momentum."),)),
    Layout("Barlow Twins or VICReg (official layout)", "backbone.", marks=("projector.",)),
    Layout("a module with a backbone", "backbone."),
    Layout("SimSiam (official layout)", "encoder.", marks=("predictor.",)),
    Layout("SwAV (official layout)", "", marks=(("projection_head.", "prototypes."),)),
    Layout("MAE (official layout)", "", marks=("decoder_embed.",)),
    Layout("plain weights", ""),  # torchvision, timm, and the backbones that Barlow Twins, VICReg, DINO, MAE release
)
INSIDE = ("state_dict", "model", "model_state_dict")
"""Entries of a file that hold one network or one method; what is in other entries keeps their name in front."""
WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put in front of every name."""


def tensors_of(file: dict[str, Any]) -> dict[str, Tensor]:
    """All weights of a file under one level of names: `encoder_q.conv1.weight`, `teacher/backbone.cls_token`."""
    tensors = {_bare(str(name)): value for name, value in file.items() if isinstance(value, Tensor)}
    for entry, inner in file.items():
        if isinstance(inner, dict):
            place = "" if entry in INSIDE else f"{entry}/"
            tensors |= {
                f"{place}{_bare(str(name))}": value for name, value in inner.items() if isinstance(value, Tensor)
            }
    return tensors


def _bare(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def layout_of(tensors: dict[str, Tensor]) -> Layout:
    """The first layout that the names fit."""

    def has(beginning: str | tuple[str, ...]) -> bool:
        return any(name.startswith(beginning) for name in tensors)

    return next(
        layout
        for layout in LAYOUTS
        if any(has(prefix) for prefix in (layout.backbone, layout.teacher) if prefix is not None)
        and all(has(mark) for mark in layout.marks)
    )


def foreign_weights(file: dict[str, Any], path: str, part: Part, given: BackboneConfig | None) -> Weights:
    """The tensors of the backbone or of its teacher, and the network where it can be told.

    Args:
        file: as read.
        path: of the file, for messages.
        part: which network.
        given: what the caller says of the network; it then need not be told.

    Raises:
        UserError: no weights in the file, no such part, or a network that cannot be told.
    """
    everything = tensors_of(file)
    if not everything:
        raise UserError(f"{path} holds no weights, only {', '.join(sorted(map(str, file))[:5]) or 'nothing'}.")
    layout = layout_of(everything)
    prefix = layout.teacher if part == "teacher" else layout.backbone
    if prefix is None or not any(name.startswith(prefix) for name in everything):
        other = "teacher" if part == "backbone" else "backbone"
        raise UserError(f"{path}: {layout.name} has no {part} in this file: take the {other}.")
    own = {name.removeprefix(prefix): tensor for name, tensor in everything.items() if name.startswith(prefix)}
    tensors = usual_names({name: tensor for name, tensor in own.items() if "/" not in name})  # of no other entry
    told = config_beside(path)
    config = given or (network_in(told, path) if told else network_of(tensors, file, dict(layout.heads_of)))
    if config is None:
        raise UserError(
            f"{path} ({layout.name}) does not tell its network: say which it is, as --backbone.name resnet50 or "
            "--backbone.name timm/vit_small_patch16_224, with --backbone.options that it was built with."
        )
    epoch = f", epoch {file['epoch']}" if isinstance(file.get("epoch"), int) else ""
    if config.small_images and layout.small_stem_padding != 1:
        config = replace(config, stem_padding=layout.small_stem_padding)
    return Weights(layout.name + epoch, tensors, config, images=images_in(told) if told else None)


PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
PLACES = {  # of these in a Sequential made of a ResNet's children, by a key; the first that is there counts
    "2.0.conv1.weight": (0, 1, 2, 3, 4, 5),  # lightly's own
    "4.0.conv1.weight": (0, 1, 4, 5, 6, 7),  # torchvision's: ReLU and max-pooling are children too
}


def usual_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives the numbered children of a ResNet, and the shortcuts of its blocks, torchvision's names."""
    places = next((found for key, found in PLACES.items() if key in tensors and "0.weight" in tensors), ())
    names = {str(place): part for place, part in zip(places, PARTS, strict=False)}

    def usual(name: str) -> str:
        first, dot, rest = name.partition(".")
        return names.get(first, first) + dot + rest.replace("shortcut.", "downsample.")

    return {usual(name): tensor for name, tensor in tensors.items()}
