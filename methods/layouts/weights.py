"""What is taken from a file, before there is a network to take it."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from methods.backbones import BackboneConfig

Part = Literal["backbone", "teacher"]


@dataclass(frozen=True)
class Weights:
    """The tensors of one network of a file.

    Attributes:
        origin: what wrote them, for people.
        tensors: under the names that the network has for them; heads may be among them.
        config: the network.
        batch_norm: `none` where BatchNorm was converted, else `local`.
        images: what the network was trained on, where the file says.
    """

    origin: str
    tensors: dict[str, Tensor]
    config: BackboneConfig
    batch_norm: str = "local"
    images: dict[str, Any] | None = None
