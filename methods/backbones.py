"""Feature extractors: any torchvision or timm model by name, a small convolutional net, or a class of your own.

Parameters keep the names that torchvision and timm give them, so what was trained here loads there, and the other way
round.
"""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torchvision
from torch import Tensor, nn

from datamodules.errors import UserError


@dataclass(frozen=True)
class BackboneConfig:
    """Which network maps images [B, C, H, W] to features [B, D]."""

    name: str = "resnet18"
    """`convnet`, a torchvision name (`resnet50`), a timm name (`timm/vit_small_patch16_224`; the prefix is needed only
    where torchvision has the name too, or where the name has a dot), or the class path of a module with an attribute
    `feature_dim`."""
    in_channels: int = 3
    """Channels of the images. A class of your own takes this and all else from `options`."""
    small_images: bool = False
    """For pictures of about 32 px: ResNets get a 3x3 stem of stride 1 without max-pooling (SimCLR, appendix B.9)."""
    stem_padding: int = 1
    """Of the small-image stem's convolution; solo-learn's CIFAR ResNets pad by 2."""
    pretrained: bool = False
    """Start from the library's weights (downloaded by torchvision or timm), which are made for their own stem, not for
    that of `small_images`, and those of torchvision for 3 channels only."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the constructor, as {zero_init_residual: true} or {img_size: 32, patch_size: 4}."""


class ConvNet(nn.Module):
    """Four 3x3 convolutions with BatchNorm and ReLU, max-pooled after first and third, then the mean over positions.

    For images of 16 to 64 px and machines without an accelerator. Pooling only twice keeps enough positions for
    the mean to forget where a thing is; with a third pooling, kNN on scattered digits ends several points lower.

    Args:
        in_channels: channels of the images.
        width: channels of the first layer; each further layer has twice as many.
    """

    def __init__(self, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width={width} must be at least 1")
        widths = [in_channels, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for depth, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
            if depth in (0, 2):
                layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.feature_dim = widths[-1]

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, 8 * width]."""
        return self.layers(images).mean((2, 3))


def build_backbone(config: BackboneConfig) -> nn.Module:
    """Makes the network without its classifier.

    Returns:
        A module that maps [B, C, H, W] to [B, D], with attribute `feature_dim` = D.

    Raises:
        UserError: unknown name (with the nearest known one), or options that the network does not take.
    """
    if config.stem_padding != 1 and not config.small_images:
        raise UserError(
            f"stem_padding={config.stem_padding} is that of the stem for small images: set small_images to true, or "
            "leave stem_padding at 1."
        )
    if config.pretrained and config.small_images:
        raise UserError(
            f"backbone {config.name!r}: the stem for small images would take the place of trained layers. Set one of "
            "the two, pretrained or small_images; pretrained weights are made for a larger --data.image_size."
        )
    try:
        if config.name == "convnet":
            if config.pretrained:
                raise UserError("backbone 'convnet' has no weights to start from: set pretrained to false.")
            return ConvNet(config.in_channels, **config.options)
        if "." in config.name and not config.name.startswith("timm/"):
            return _own(config)
        if config.name in torchvision.models.list_models(module=torchvision.models):
            return _from_torchvision(config)
        return _from_timm(config)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:  # an unknown option, or a wrong value
        raise UserError(
            f"backbone {config.name!r} with options {config.options}: {str(error).rstrip('.')}. Change "
            "--model.backbone.options."
        ) from error


def _from_torchvision(config: BackboneConfig) -> nn.Module:
    if config.pretrained and config.in_channels != 3:
        raise UserError(
            f"backbone {config.name!r}: torchvision's weights are made for 3 channels, and in_channels is "
            f"{config.in_channels}. Set pretrained to false, or take timm/{config.name}: timm adapts its weights."
        )
    weights = "DEFAULT" if config.pretrained else None
    network: Any = torchvision.models.get_model(config.name, weights=weights, **config.options)
    if getattr(network, "aux_logits", False):
        raise UserError(
            f"backbone {config.name!r} has auxiliary classifiers: switch them off with options {{aux_logits: false}}."
        )
    network.feature_dim = _remove_classifier(network, config.name)
    if isinstance(network, torchvision.models.ResNet):
        _fit_resnet_stem(network, config)
    elif config.in_channels != 3 or config.small_images:
        raise UserError(
            f"backbone {config.name!r} from torchvision takes 3 channels and has no small-image stem: use a ResNet, or "
            f"the timm model of that name (timm/{config.name})."
        )
    return network


def _remove_classifier(network: nn.Module, name: str) -> int:
    """Takes the linear layers at the end away and returns D; pooling and norms before them stay, under their names."""
    place = next(part for part in ("fc", "classifier", "heads", "head") if hasattr(network, part))
    layers = list(getattr(network, place).children()) or [getattr(network, place)]
    first = next((i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)), None)
    if first is None:
        raise UserError(f"backbone {name!r} ends in no linear classifier to remove: choose another network.")
    before = [nn.Identity() if isinstance(layer, nn.Dropout) else layer for layer in layers[:first]]
    setattr(network, place, nn.Sequential(*before) if before else nn.Identity())
    return layers[first].in_features


def _fit_resnet_stem(network: torchvision.models.ResNet, config: BackboneConfig) -> None:
    """Replaces the first layers where the images ask for it; their parameters keep their names."""
    width = network.conv1.out_channels
    if config.small_images:
        network.conv1 = nn.Conv2d(config.in_channels, width, 3, padding=config.stem_padding, bias=False)
        network.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    elif config.in_channels != 3:
        network.conv1 = nn.Conv2d(config.in_channels, width, kernel_size=7, stride=2, padding=3, bias=False)
    else:
        return
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does


def _from_timm(config: BackboneConfig) -> nn.Module:
    import timm  # a second of import time that ResNets need not pay

    name = config.name.removeprefix("timm/")
    if not timm.is_model(name):
        known = ["convnet", *torchvision.models.list_models(module=torchvision.models), *timm.list_models()]
        near = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3)
        raise UserError(
            f"backbone {config.name!r} is known neither to torchvision nor to timm"
            + (f": did you mean {', '.join(near)}?" if near else ".")
        )
    network: Any = timm.create_model(
        name, pretrained=config.pretrained, num_classes=0, in_chans=config.in_channels, **config.options
    )
    if config.small_images:
        if not (isinstance(getattr(network, "conv1", None), nn.Conv2d) and hasattr(network, "maxpool")):
            raise UserError(
                f"backbone {config.name!r} has no small-image stem: set small_images to false, or take a plain ResNet."
            )
        first = network.conv1
        network.conv1 = nn.Conv2d(config.in_channels, first.out_channels, 3, padding=config.stem_padding, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    network.feature_dim = getattr(network, "head_hidden_size", network.num_features)  # some widen behind the pooling
    return network


def _own(config: BackboneConfig) -> nn.Module:
    if config.in_channels != 3 or config.small_images or config.pretrained:
        raise UserError(
            f"backbone {config.name!r} is a class of your own: hand it its channels, stem and weights through "
            "backbone.options, not through in_channels, small_images or pretrained."
        )
    module, _, name = config.name.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"backbone {config.name!r} cannot be imported ({error}): give a class path importable from this folder."
        ) from error
    network = factory(**config.options)
    if not isinstance(getattr(network, "feature_dim", None), int):
        raise UserError(
            f"backbone {config.name!r} needs an attribute `feature_dim`, the number D of features it returns."
        )
    return network


def channels_of(network: nn.Module) -> int | None:
    """Channels of the images that a network takes, read off its first convolution; None where it has none."""
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def before_pooling(network: Any) -> Callable[[Tensor], Tensor]:
    """A network up to its last feature map, whose mean over the positions is the network's feature.

    Args:
        network: `convnet`, or a ResNet of torchvision's or timm's.

    Returns:
        A function that maps [B, C, H, W] to [B, D, h, w], with the network's own weights.

    Raises:
        UserError: any other network.
    """
    if isinstance(network, ConvNet):
        return network.layers
    if isinstance(network, torchvision.models.ResNet):
        return nn.Sequential(*(layer for name, layer in network.named_children() if name not in ("avgpool", "fc")))
    if hasattr(network, "forward_features") and hasattr(network, "layer4"):
        return network.forward_features
    raise UserError(
        f"{type(network).__name__} does not show the feature map behind its features: choose a ResNet or convnet as "
        "--model.backbone.name."
    )


def fixed_image_size(network: Any) -> bool:
    """Whether the network takes images of one size only: torchvision's ViTs, and timm's unless told otherwise."""
    return getattr(getattr(network, "patch_embed", None), "strict_img_size", False) or hasattr(network, "image_size")
