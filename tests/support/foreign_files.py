"""Files as other people's code writes them: each is made from a network whose outputs are known."""

import json
from typing import Any

import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from methods.pretrained import Pretrained, load_backbone

Tensors = dict[str, Tensor]
ONE = {"one": torch.ones(1)}


def trained(network: nn.Module) -> nn.Module:
    """With numbers everywhere that no fresh network has, running statistics included; in eval mode."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network.eval()


def resnet(small_images: bool = False) -> Any:
    """resnet18 with its fc."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    if small_images:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return trained(network)


def vit(**options: Any) -> Any:
    """timm's smallest ViT of a usual width, for images of 32 px."""
    torch.manual_seed(0)
    return trained(timm.create_model("vit_tiny_patch16_224", **{"img_size": 32} | options))


def within(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def zeros(tensors: Tensors) -> Tensors:
    """Those of another network, which take no room in a file."""
    return {name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in tensors.items()}


def without_fc(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(("fc.", "head."))}


def numbered(network: Any) -> Tensors:
    """As a Sequential of all children but the last."""
    return nn.Sequential(*list(network.children())[:-1]).state_dict()


def mlp_fc(tensors: Tensors) -> Tensors:
    """With the projector that MoCo v2, v3 and SimSiam put in place of fc."""
    return without_fc(tensors) | within("fc.0.", {"weight": torch.ones(512, 512)})


def moco(tensors: Tensors, prefix: str, **more: Any) -> dict[str, Any]:
    """What main_moco.py and its descendants save."""
    return {"epoch": 200, "arch": "resnet18", "state_dict": within(prefix, tensors), "optimizer": {"state": {}}} | more


def images(side: int = 32) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def features(network: Any, side: int = 32) -> Tensor:
    """What the network of the file itself makes of the images, before its classifier."""
    with torch.no_grad():
        if isinstance(network, torchvision.models.ResNet):
            classifier, network.fc = network.fc, nn.Identity()
            made = network(images(side))
            network.fc = classifier
            return made
        return network.forward_head(network.forward_features(images(side)), pre_logits=True)


def load(file: Any, folder: Any, name: str = "file.pth", **how: Any) -> Pretrained:
    torch.save(file, folder / name)
    return load_backbone(str(folder / name), **how)


def assert_same(got: Pretrained, network: Any, side: int = 32) -> None:
    with torch.no_grad():
        torch.testing.assert_close(got.backbone(images(side)), features(network, side), rtol=0, atol=0)
    assert not got.backbone.training
    assert got.loaded == len(got.backbone.state_dict()) and got.unused == ()


def timm_folder(folder: Any, network: nn.Module, **told: Any) -> str:
    """What timm downloads: weights with a description beside them."""
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224"} | told))
    return str(folder / "model.safetensors")


def assert_same_vit(got: Pretrained, network: nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(got.backbone(images()), features(network), rtol=0, atol=0)
