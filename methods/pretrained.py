"""A trained network out of a file, whoever wrote it, ready to be judged."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from datamodules.errors import UserError
from methods.backbones import BackboneConfig, build_backbone
from methods.layouts.files import read_file
from methods.layouts.foreign import foreign_weights
from methods.layouts.own import exported_weights, is_export, is_own, own_weights
from methods.layouts.positions import resized_positions
from methods.layouts.weights import Part
from methods.modules import convert_norms

LISTED = 3  # names in a sentence
HEADS = (
    "fc.",
    "head.",
    "heads.",
    "classifier.",
    "linear.",
    "projection_head.",
    "prototypes.",
    "decoder_",
    "mask",
    "pre_logits.",
)
"""How the names of parts behind a network begin, and of a masked patch's token: not needed for features."""
RECOMPUTED = ("relative_position_index", "attn_mask")
"""Tables that older releases of timm stored and newer ones compute."""


@dataclass(frozen=True)
class Pretrained:
    """A backbone with the weights of a file, all of them.

    Attributes:
        backbone: maps images [B, C, H, W] to features [B, D], attribute `feature_dim` = D; on the CPU, in eval mode,
            its parameters trainable.
        config: what builds such a network, together with `convert_norms` for `batch_norm`.
        origin: what wrote the file, as `SimCLR, step 390`, or `MoCo v1 or v2 (official
            layout), epoch 200`.
        part: `backbone`, or `teacher` for its slow copy.
        loaded: number of the backbone's tensors that came from the file, which is all of them.
        unused: keys among the backbone's that it has no place for and that are no head.
        images: what the network was trained on: `data` (class name), `mean`, `std`, `image_size`, `num_channels`,
            `num_classes`, each missing or None where it was not said; None where the file says nothing.
        batch_norm: `none` where BatchNorm was converted to GroupNorm, else `local`.
    """

    backbone: nn.Module
    config: BackboneConfig
    origin: str
    part: str
    loaded: int
    unused: tuple[str, ...]
    images: dict[str, Any] | None
    batch_norm: str


def load_backbone(path: str, part: Part = "backbone", backbone: BackboneConfig | None = None) -> Pretrained:
    """Reads a checkpoint and builds its backbone; neither the method's class nor code of the file's is needed.

    Args:
        path: a checkpoint of this project, or of another's (see docs/checkpoints.md).
        part: the network that learned, or its slow copy.
        backbone: the network, for files that do not tell, or to have a ViT for images of another size.

    Raises:
        UserError: the file cannot be read, has no such part, does not tell its network, or does not fit it.
    """
    file = read_file(path)
    read = own_weights if is_own(file) else exported_weights if is_export(file) else foreign_weights
    weights = read(file, path, part, backbone)
    network = convert_norms(build_backbone(weights.config), weights.batch_norm)
    tensors = resized_positions(network, weights.tensors) if backbone else weights.tensors
    loaded, unused = _fill(network, tensors, f"{path} ({weights.origin})", weights.config)
    return Pretrained(
        network.eval(), weights.config, weights.origin, part, loaded, unused, weights.images, weights.batch_norm
    )


def _fill(
    network: nn.Module, tensors: dict[str, Tensor], source: str, config: BackboneConfig
) -> tuple[int, tuple[str, ...]]:
    """Loads all of a network's tensors.

    Returns:
        How many there were, and the keys that found no place.

    Raises:
        UserError: some are not in the file, have another shape there, or the file has more layers.
    """
    wanted = network.state_dict()
    # Counts of batches matter to training without a momentum only; files older than torch 0.4.1 have none.
    missing = [key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")]
    found = {key: tensors[key] for key in wanted if key in tensors}
    reshaped = [
        f"{key} {list(tensor.shape)} for {list(wanted[key].shape)}"
        for key, tensor in found.items()
        if tensor.shape != wanted[key].shape
    ]
    strangers, unused = _left_over(network, tensors)
    problems = {"lacks": missing, "has in other shapes": reshaped, "has beyond it": strangers}
    told = [f"{what} {len(keys)} ({_some(keys)})" for what, keys in problems.items() if keys]
    if told:
        raise UserError(
            f"{source} does not fit the network {config.name}, which has {len(wanted)} tensors: it "
            f"{', '.join(told)}. Say which it is by --backbone.name and --backbone.options."
        )
    network.load_state_dict(found, strict=False)
    return len(found), unused


def _left_over(network: nn.Module, tensors: dict[str, Tensor]) -> tuple[list[str], tuple[str, ...]]:
    """Keys that are not the network's: those that show another network, and those beside it; heads are neither."""
    known = network.state_dict()
    parts = {name for name, _ in network.named_children()} | {key.partition(".")[0] for key in known}
    keys = [
        key
        for key in tensors
        if key not in known and not key.startswith(HEADS) and key.rpartition(".")[2] not in RECOMPUTED
    ]
    # A layer inside one of its parts, or a token among those that it attends to, would change the features.
    inside = [key for key in keys if key.partition(".")[0] in parts or key.endswith(("_token", "_tokens"))]
    return inside, tuple(key for key in keys if key not in inside)


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return ", ".join(keys[:LISTED]) + more
