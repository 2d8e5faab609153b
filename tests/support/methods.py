"""Every method at a size that runs in milliseconds; a new method is found here without a line."""

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import methods
from datamodules.augment import Augment, ViewSpec, recipe
from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.base import SSLModule
from methods.contrastive import ContrastiveModule
from methods.optim import OptimConfig
from tests.support.toy_moco import ToyMoCo

IMAGE_SIZE = 16
CHANNELS = 3
SMALL = {  # arguments by these names are shrunk
    **{"hidden_dim": 16, "out_dim": 8, "predictor_hidden_dim": 16, "local_hidden_dim": 16},
    **{"queue_size": 24, "num_negatives": 24, "num_prototypes": 12},
    **{"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2},
}
CONVNET = BackboneConfig("convnet", in_channels=CHANNELS, options={"width": 4})
VIT = BackboneConfig(
    "timm/vit_tiny_patch16_224",
    options={"img_size": IMAGE_SIZE, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 4},
)
CROPPED_VIT = replace(VIT, options=VIT.options | {"dynamic_img_size": True, "global_pool": "avg"})
BACKBONES = {"MAE": VIT, "DINOOnViT": CROPPED_VIT}  # methods that need another than a convolutional net


class DINOOnViT(methods.DINO):
    """DINO on the network that it was made for, whose positions follow the crops' sizes."""


def all_methods() -> list[type[SSLModule]]:
    """The concrete methods that `methods` exports, DINO on a ViT too, and a toy with a teacher and a queue."""
    exported = [v for v in vars(methods).values() if isinstance(v, type) and issubclass(v, SSLModule)]
    return [*(m for m in exported if not inspect.isabstract(m)), DINOOnViT, ToyMoCo]


def contrastive_methods() -> list[type[ContrastiveModule]]:
    """Those that `micro_batch_size` applies to."""
    return [m for m in all_methods() if issubclass(m, ContrastiveModule)]


def arguments(method: type[SSLModule]) -> dict[str, inspect.Parameter]:
    """All arguments of a method and its bases."""
    return {
        name: parameter
        for cls in reversed(method.__mro__)
        if issubclass(cls, SSLModule)
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def small(method: type[SSLModule], **overrides: Any) -> SSLModule:
    """A small instance, always with the same weights."""
    torch.manual_seed(0)
    sizes = {name: value for name, value in SMALL.items() if name in arguments(method)}
    defaults = {
        "backbone": BACKBONES.get(method.__name__, CONVNET),
        "optim": OptimConfig("sgd", lr=0.05, weight_decay=1e-4, options={"momentum": 0.9}, warmup_epochs=0.5),
    }
    return method(**(defaults | sizes | overrides))


def without_norm(module: nn.Module) -> nn.Module:
    """Takes every BatchNorm out, in place: what is left treats each image alone."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, nn.Identity())
        else:
            without_norm(child)
    return module


def images(count: int, seed: int = 0) -> Tensor:
    """[count, 3, 16, 16] uint8, smooth random patterns: something for colour jitter and crops to act on."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, CHANNELS, 4, 4, generator=generator)
    return nn.functional.interpolate(coarse, IMAGE_SIZE, mode="bilinear").mul(255).to(torch.uint8)


def specs_without_masks(method: type[SSLModule]) -> list[ViewSpec]:
    """The method's own recipe with the background left in, for images without foreground masks."""
    return [replace(spec, background_removal=0.0) for spec in recipe(method.recipe, IMAGE_SIZE)]


def views(method: type[SSLModule], count: int = 8, seed: int = 0) -> Views:
    """A batch of the method's own recipe."""
    augment = Augment(recipe(method.recipe, IMAGE_SIZE), mean=(0.5,) * 3, std=(0.25,) * 3, seed=seed)
    index = torch.arange(count)
    draws = augment.draw(0, index, (IMAGE_SIZE, IMAGE_SIZE))
    pictures = images(count, seed)
    if augment.removes_background:  # the foreground: all but a frame
        mask = torch.zeros_like(pictures[:, :1])
        mask[:, :, 3:-3, 3:-3] = 255
        pictures = torch.cat((pictures, mask), dim=1)
    global_views, local_views = augment(pictures, draws)
    return Views(global_views, index % 3, index, local_views)


def to_double(batch: Views) -> Views:
    """The same views in float64."""
    return batch._replace(
        global_views=[view.double() for view in batch.global_views],
        local_views=[view.double() for view in batch.local_views],
        extras={k: v.double() if v.is_floating_point() else v for k, v in batch.extras.items()},
    )
