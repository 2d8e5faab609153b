"""Which network a file holds: told by its shapes, its description, or the user."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from datamodules.errors import UserError
from methods.backbones import BackboneConfig, build_backbone
from methods.layouts.networks import RESNETS, network_of
from methods.pretrained import load_backbone
from tests.support.foreign_files import (
    assert_same,
    assert_same_vit,
    images,
    load,
    moco,
    timm_folder,
    trained,
    vit,
    zeros,
)


def test_shapes_tell_patches_images_channels_scales_and_pooling(tmp_path):
    network = vit(patch_size=8, img_size=40, in_chans=2, init_values=0.1, global_pool="avg")
    got = load(network.state_dict(), tmp_path)
    options = {"patch_size": 8, "img_size": 40, "init_values": 1e-5, "global_pool": "avg"}
    assert got.config == BackboneConfig("timm/vit_tiny_patch16_224", in_channels=2, options=options)
    x = images(40)[:, :2]
    with torch.no_grad():
        wanted = network.forward_head(network.forward_features(x), pre_logits=True)
        torch.testing.assert_close(got.backbone(x), wanted, rtol=0, atol=0)


@pytest.mark.slow
def test_torchvisions_vit(tmp_path):
    network = trained(torchvision.models.vit_b_32(image_size=64))
    got = load(network.state_dict(), tmp_path)
    assert got.config == BackboneConfig("vit_b_32", options={"image_size": 64})
    network.heads = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(got.backbone(images(64)), network(images(64)), rtol=0, atol=0)


def told(network: Callable[[], nn.Module], **how: Any) -> BackboneConfig | None:
    """What the shapes alone tell; no weights are made."""
    with torch.device("meta"):
        return network_of(network().state_dict(), how, {})


@pytest.mark.parametrize("name", RESNETS.values())
def test_shapes_tell_resnets(name):
    assert told(lambda: torchvision.models.get_model(name)) == BackboneConfig(name)


def test_what_shapes_do_not_tell():
    blocks = torchvision.models.resnet.BasicBlock
    assert told(lambda: torchvision.models.ResNet(blocks, [1, 1, 1, 1])) is None
    assert told(lambda: timm.create_model("resnet50d")) is None
    assert told(lambda: timm.create_model("resnet50d"), arch="resnet50d") == BackboneConfig("timm/resnet50d")
    assert told(lambda: timm.create_model("vit_tiny_patch16_224", depth=3)) is None
    assert told(lambda: torchvision.models.vgg11(), arch=11) is None


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32"])
def test_shapes_tell_torchvisions_vits(name):
    assert told(lambda: torchvision.models.get_model(name)) == BackboneConfig(name)


def test_timms_download_with_its_config(tmp_path):
    network = trained(timm.create_model("efficientnet_b0", in_chans=2))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="does not tell its network"):
        load_backbone(str(tmp_path / "model.safetensors"))
    told = {"architecture": "efficientnet_b0", "pretrained_cfg": {"input_size": [2, 224, 224]}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    got = load_backbone(str(tmp_path / "model.safetensors"))
    assert got.config == BackboneConfig("timm/efficientnet_b0", in_channels=2)
    network.classifier = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(got.backbone(images()[:, :2]), network(images()[:, :2]), rtol=0, atol=0)


def test_timms_config_counts_before_the_shapes(tmp_path):
    network = vit(global_pool="avg", fc_norm=False)
    arguments = {"in_chans": 3, "num_classes": 0, "img_size": 32, "global_pool": "avg", "fc_norm": False}
    told = {"input_size": [3, 32, 32], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    got = load_backbone(timm_folder(tmp_path, network, model_args=arguments, pretrained_cfg=told))
    assert_same_vit(got, network)
    prepared = {"mean": told["mean"], "std": told["std"], "image_size": 32, "num_channels": 3, "num_classes": None}
    assert got.images == prepared
    sized = told | {"fixed_input_size": True, "global_pool": "avg"}
    path = timm_folder(tmp_path, network, model_args={"fc_norm": False}, pretrained_cfg=sized)
    assert_same_vit(load_backbone(path), network)


@pytest.mark.parametrize(
    "told", [{"pretrained_cfg": None}, {"pretrained_cfg": {"input_size": None}, "model_args": None}]
)
def test_timms_config_may_leave_open_what_is_usual(told, resnet18, tmp_path):
    got = load_backbone(timm_folder(tmp_path, resnet18, architecture="resnet18", **told))
    assert got.config == BackboneConfig("timm/resnet18") and got.images is None
    assert_same(got, resnet18)


def test_a_described_network_opens_no_further_file(resnet18, tmp_path):
    for option in ("checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir", "weights"):
        path = timm_folder(tmp_path, resnet18, architecture="resnet18", model_args={option: "evil.pth"})
        with pytest.raises(UserError, match=f"option '{option}', which opens further files.*give --backbone.name"):
            load_backbone(path)
        assert load_backbone(path, backbone=BackboneConfig("timm/resnet18")).loaded > 0


def test_patches_of_video_are_not_guessed(vit_tiny, tmp_path):
    kernel = torch.ones(192, 3, 2, 16, 16)
    with pytest.raises(UserError, match="does not tell its network"):
        load(vit_tiny.state_dict() | {"patch_embed.proj.weight": kernel}, tmp_path)
    with pytest.raises(UserError, match="does not tell its network"):
        load({"conv_proj.weight": kernel, "encoder.pos_embedding": torch.ones(1, 5, 192)}, tmp_path)


def test_other_architectures_by_the_name_in_the_file(tmp_path):
    tensors = torchvision.models.squeezenet1_1().state_dict() | torchvision.models.mobilenet_v2().state_dict()
    with pytest.raises(UserError, match=r"does not fit the network mobilenet_v2, which .*has beyond it 50 \(features"):
        load(moco(tensors, "module.", arch="mobilenet_v2"), tmp_path)
    tensors = torchvision.models.mobilenet_v2().state_dict()
    assert load(moco(tensors, "module.", arch="mobilenet_v2"), tmp_path).config == BackboneConfig("mobilenet_v2")
    assert load(zeros(timm.create_model("seresnet50").state_dict()) | {"arch": "seresnet50"}, tmp_path).loaded > 0


def test_positions_are_interpolated_only_when_asked_for(vit_tiny, tmp_path, caplog):
    asked = BackboneConfig("timm/vit_tiny_patch16_224", options={"img_size": [48, 80]})
    with caplog.at_level("INFO"):
        got = load(vit_tiny.state_dict(), tmp_path, backbone=asked)
    assert "Positions interpolated from 2x2 to 3x5 patches." in caplog.text
    backbone: Any = got.backbone
    assert backbone(torch.randn(1, 3, 48, 80)).shape == (1, 192)
    old, new = vit_tiny.pos_embed, backbone.pos_embed
    torch.testing.assert_close(new[:, 0], old[:, 0])
    grid = old[:, 1:].unflatten(1, (2, 2)).permute(0, 3, 1, 2)
    wanted = nn.functional.interpolate(grid, (3, 5), mode="bicubic", antialias=True).flatten(2).mT
    torch.testing.assert_close(new[:, 1:], wanted)
    same = load(vit_tiny.state_dict(), tmp_path, backbone=BackboneConfig(asked.name, options={"img_size": 32}))
    assert_same(same, vit_tiny)


def test_a_network_without_its_own_name_is_given(tmp_path):
    asked = BackboneConfig("convnet", options={"width": 4})
    network = trained(build_backbone(asked))
    with pytest.raises(UserError, match="does not tell its network"):
        load(network.state_dict(), tmp_path)
    got = load(network.state_dict(), tmp_path, backbone=asked)
    with torch.no_grad():
        torch.testing.assert_close(got.backbone(images()), network(images()), rtol=0, atol=0)
