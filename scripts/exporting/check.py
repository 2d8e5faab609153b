"""The round trip: what was written is loaded as the user will load it, and must give the network's features."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from methods.pretrained import Pretrained
from scripts.exporting.images import random_images

TOLERANCE = 1e-5  # between features, in float32


class Deviation(NamedTuple):
    """How far the features of the file are from those of the network.

    Attributes:
        largest: largest absolute difference.
        allowed: what it may be.
        shapes: of the batches of random images that were compared.
    """

    largest: float
    allowed: float
    shapes: list[tuple[int, ...]]


class Reference(NamedTuple):
    """What the network itself makes of random images."""

    batches: list[Tensor]  # each [B, C, H, W]
    features: list[Tensor]  # each [B, D]
    rounding: float  # largest distance of these float32 features from those in float64

    @property
    def allowed(self) -> float:
        """Another order of the same sums rounds otherwise, in deep networks by more than the tolerance."""
        return max(TOLERANCE, 2 * self.rounding)


@torch.no_grad()
def reference(pretrained: Pretrained) -> Reference:
    """Runs the network on random float32 images.

    Raises:
        UserError: it does not take images of the size that is known or usual, or its features are not finite.
    """
    batches = random_images(pretrained)
    try:
        features = [pretrained.backbone(images) for images in batches]
    except (AssertionError, RuntimeError, ValueError) as error:  # a network of the user's own, of unknown size
        raise UserError(
            f"The network does not take images {list(batches[0].shape)} ({str(error).splitlines()[0]}), and its file "
            "says no other size: give its data module attributes image_size and num_channels before it is trained."
        ) from error
    if not all(outputs.isfinite().all() for outputs in features):
        raise UserError(
            "The network's own features of random images are not finite: its training diverged. Export an earlier "
            "checkpoint."
        )
    return Reference(batches, features, rounding(pretrained.backbone, batches, features))


@torch.no_grad()
def rounding(network: nn.Module, batches: list[Tensor], features: list[Tensor]) -> float:
    """Largest distance of float32 features from those in float64; 0 for a network that does not run in float64."""
    twin = copy.deepcopy(network).double()
    try:
        exact = [twin(images.double()) for images in batches]
    except RuntimeError:
        return 0.0
    return max(float((a - b).abs().max()) for a, b in zip(exact, features, strict=True))


def round_trip(known: Reference, code: str) -> Deviation:
    """Compares the features that a file gives with the network's own.

    Args:
        known: the network's.
        code: lines that turn `images` into `features` by the file alone.

    Raises:
        UserError: they differ.
    """
    pairs = list(zip(known.batches, known.features, strict=True))
    largest = max(float((run(code, images) - features).abs().max()) for images, features in pairs)
    if not largest <= known.allowed:
        size = max(float(features.abs().max()) for features in known.features)
        raise UserError(
            f"What was written gives other features than the network, by up to {largest:.1e} (of at most {size:.2g}) "
            f"where {known.allowed:.0e} is allowed, so nothing was kept: choose another --to, such as safetensors."
        )
    return Deviation(largest, known.allowed, [tuple(images.shape) for images in known.batches])


def run(code: str, images: Tensor) -> Tensor:
    """Runs the very lines that the user is shown; they hold nothing but literals and known names (see `rebuild`)."""
    names = {"images": images}
    exec(compile(code, "<the lines that load it>", "exec"), names)
    return torch.as_tensor(names["features"])
