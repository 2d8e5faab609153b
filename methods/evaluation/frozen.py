"""What the protocols on frozen features share: a network out of a file, labelled images, and no training of it."""

import abc
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from datamodules import ImageDataModule
from datamodules.cache import SplitName
from datamodules.errors import UserError
from datamodules.views import Views
from methods.backbones import BackboneConfig, build_backbone, channels_of
from methods.checks import only_side
from methods.evaluation.features import Embed, Features, extract
from methods.layouts.weights import Part
from methods.modules import convert_norms
from methods.pretrained import Pretrained, load_backbone

LISTED = 3  # names in a sentence


class FrozenEval(LightningModule, abc.ABC):
    """Judges the features of a trained network on the validation images; `cli.py validate` runs it.

    Attributes:
        source: the network as it was read, and what the file says of it.
        result: accuracies of the last validation, as fractions, by name.
        hints: what could be done better, a sentence each.
    """

    def __init__(self, pretrained: str, part: Part = "backbone", backbone: BackboneConfig | None = None) -> None:
        """
        Args:
            pretrained: checkpoint of this project or another (docs/checkpoints.md).
            part: the network that learned, or its slow copy.
            backbone: the network, for checkpoints that do not tell.
        """
        super().__init__()
        self.source: Pretrained = load_backbone(pretrained, part, backbone)
        self.network = self.source.backbone.requires_grad_(False)
        self.feature_dim: int = self.network.feature_dim  # pyright: ignore[reportAttributeAccessIssue, reportAssignmentType]
        self.result: dict[str, float] = {}
        self.hints: list[str] = []

    @abc.abstractmethod
    def protocol(self) -> str:
        """What stands behind the accuracies, to be printed with them."""

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, C, H, W]."""
        return self.network(images)

    def configure_callbacks(self) -> list[Callback]:
        """None; the first hook that runs, and so where a `fit` can be answered before Lightning does."""
        if self.trainer.state.fn == "fit":
            raise UserError(f"{type(self).__name__} judges a trained network: run cli.py validate, not fit.")
        return []

    def setup(self, stage: str) -> None:
        """Checks that the images have labels and fit the network; says what was loaded."""
        check_images(self.source, self.data)
        rank_zero_info(loaded(self.source))

    @property
    def data(self) -> Any:
        """The Trainer's data module."""
        return getattr(self.trainer, "datamodule", None)

    @property
    def num_classes(self) -> int:
        """C; known after `setup`."""
        return self.data.num_classes

    def features(self, split: SplitName, network: Embed | None = None, **options: Any) -> Features:
        """Features of a split with the Trainer's device and precision, see `extract`."""
        context = self.trainer.precision_plugin.val_step_context
        return extract(network or self.network, self.data, split, self.device, autocast=context, **options)

    def untrained(self) -> torch.nn.Module:
        """The same architecture with fresh weights, always the same ones."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = convert_norms(build_backbone(self.source.config), self.source.batch_norm)
        return self.trainer.precision_plugin.convert_module(network).to(self.device).eval()

    def seen(self, batch: Views, features: Tensor) -> dict[str, Tensor]:
        """What a validation step hands to callbacks."""
        return {"features": features, "label": batch.label, "index": batch.index}


def loaded(source: Pretrained) -> str:
    """How much of a network came from the file, in a sentence."""
    total = len(source.backbone.state_dict())
    told = f"{source.origin}, {source.part}: loaded {source.loaded} of {total} tensors"
    if not source.unused:
        return f"{told}."
    more = ", ..." if len(source.unused) > LISTED else ""
    return f"{told}; {len(source.unused)} of the file's not used ({', '.join(source.unused[:LISTED])}{more})."


def check_images(source: Pretrained, data: Any) -> None:
    """Whether a network can be judged on the images of a data module.

    Prints a line where it sees them otherwise prepared than in its training.

    Raises:
        UserError: they have no labels, or not the channels or size that the network takes.
    """
    name = type(data).__name__
    if not isinstance(data, ImageDataModule):
        raise UserError(f"Evaluation needs images as an ImageDataModule offers them (its subclasses do), not {name}.")
    if data.num_classes is None:
        raise UserError(f"{name} has no labels here, and accuracy needs them: see --data.help {name}.")
    wanted = channels_of(source.backbone)
    if wanted not in (None, data.num_channels):
        raise UserError(
            f"The images of {name} have {data.num_channels} channel(s), the network was trained on {wanted}: choose "
            "other data."
        )
    side = only_side(source.backbone)
    if side not in (None, data.image_size):
        raise UserError(f"The network takes images of {side} pixels only: set --data.image_size {side}.")
    trained = source.images or {}
    other = [
        f"{flag} {trained[flag]}"
        for flag in ("image_size", "mean", "std")
        if trained.get(flag) is not None and trained[flag] != getattr(data, flag)
    ]
    if other:
        of = f"of {trained['data']} " if trained.get("data") else ""  # folders of timm's do not name it
        rank_zero_info(
            f"The network was trained on images {of}with {', '.join(other)}; these differ. The same flags of --data "
            "show them alike."
        )
