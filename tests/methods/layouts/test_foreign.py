"""The layouts of other people's code: which network, whose weights, and the same outputs."""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from methods.backbones import BackboneConfig
from methods.pretrained import load_backbone
from tests.support.foreign_files import (
    ONE,
    Tensors,
    assert_same,
    images,
    load,
    mlp_fc,
    moco,
    numbered,
    resnet,
    trained,
    vit,
    within,
    without_fc,
    zeros,
)


def moco_v2(s: Tensors, o: Tensors, _: Any) -> dict[str, Any]:
    both = within("encoder_q.", mlp_fc(s)) | within("encoder_k.", mlp_fc(o)) | {"queue": torch.ones(8, 4)}
    return moco(both, "module.")


def moco_v3(s: Tensors, o: Tensors, _: Any) -> dict[str, Any]:
    both = within("base_encoder.", mlp_fc(s)) | within("momentum_encoder.", mlp_fc(o))
    return moco(both | within("predictor.0.", ONE), "module.", scaler={"scale": 1.0})


def lucidrains(s: Tensors, o: Tensors, _: Any) -> Any:
    heads = within("online_encoder.projector.", ONE) | within("online_predictor.", ONE)
    return within("online_encoder.net.", s) | within("target_encoder.net.", o) | within("net.", s) | heads


def yaox12(s: Tensors, o: Tensors, n: Callable[[Tensors], Tensors]) -> Any:
    both = within("online_network.encoder.", n(s)) | within("target_network.encoder.", n(o))
    return {"epoch": 3, "steps": 100, "model": within("module.", both | within("predictor.", ONE))}


def sthalles(s: Tensors, o: Tensors, n: Callable[[Tensors], Tensors]) -> Any:
    online, target = (within("encoder.", n(t)) | within("projection.net.", ONE) for t in (s, o))
    return {"online_network_state_dict": online, "target_network_state_dict": target, "optimizer_state_dict": {}}


def dino(s: Tensors, o: Tensors, _: Any) -> Any:
    student, teacher = (within("module.backbone.", t) | within("module.head.", ONE) for t in (s, o))
    args = argparse.Namespace(arch="resnet50", output_dir=pathlib.Path("out"), lr=np.float64(0.1))
    return {"student": student, "teacher": teacher, "epoch": 100, "args": args, "dino_loss": {"center": ONE["one"]}}


def solo_learn(s: Tensors, o: Tensors, _: Any) -> Any:
    both = within("backbone.", without_fc(s)) | within("momentum_backbone.", without_fc(o))
    return {"state_dict": both | within("classifier.", ONE) | within("projector.0.", ONE), "epoch": 999}


def lightly(s: Tensors, o: Tensors, n: Callable[[Tensors], Tensors]) -> Any:
    both = within("backbone.", n(s)) | within("backbone_momentum.", n(o))
    return {"state_dict": both | within("projection_head.layers.0.", ONE), "epoch": 1, "hyper_parameters": {}}


def lightly_dino(s: Tensors, o: Tensors, _: Any) -> Any:
    both = within("student_backbone.", without_fc(s)) | within("teacher_backbone.", without_fc(o))
    return {"state_dict": both | within("student_head.", ONE)}


WITH_TEACHER = [moco_v2, moco_v3, lucidrains, yaox12, sthalles, dino, solo_learn, lightly, lightly_dino]


@pytest.mark.parametrize("write", WITH_TEACHER, ids=lambda write: write.__name__)
def test_student_and_teacher_are_told_apart(write, resnet18, tmp_path):
    tensors = resnet18.state_dict()
    names = dict(zip(tensors, numbered(resnet18), strict=False))
    file = write(tensors, zeros(tensors), lambda t: {number: t[name] for name, number in names.items()})
    got = load(file, tmp_path)
    assert_same(got, resnet18)
    assert got.config == BackboneConfig("resnet18") and got.part == "backbone"
    teacher = load_backbone(str(tmp_path / "file.pth"), part="teacher")
    assert not any(tensor.any() for tensor in teacher.backbone.state_dict().values()) and teacher.part == "teacher"


WITHOUT_TEACHER = {
    "SimSiam": lambda s: moco(within("encoder.", mlp_fc(s)) | within("predictor.0.", ONE), "module."),
    "SwAV": lambda s: within("module.", without_fc(s) | within("projection_head.0.", ONE) | {"prototypes.weight": ONE}),
    "Barlow Twins": lambda s: {
        "epoch": 9,
        "model": within("module.backbone.", without_fc(s)) | within("module.projector.0.", ONE),
        "optimizer": {"state": {0: {"mu": torch.ones(1)}}, "param_groups": []},
    },
    "a module": lambda s: {"state_dict": within("backbone.", s)},
    "plain": lambda s: s,
    "plain weights, epoch 5": lambda s: {"model": within("_orig_mod.", s), "epoch": 5},
}


@pytest.mark.parametrize("name", WITHOUT_TEACHER)
def test_layouts_without_a_teacher(name, resnet18, tmp_path):
    file = WITHOUT_TEACHER[name](resnet18.state_dict())
    flat = {key: value if isinstance(value, Tensor) else ONE["one"] for key, value in file.items()}
    got = load(flat if name == "SwAV" else file, tmp_path)
    assert_same(got, resnet18)
    assert got.origin.startswith(name)
    with pytest.raises(UserError, match="has no teacher in this file: take the backbone"):
        load_backbone(str(tmp_path / "file.pth"), part="teacher")


def test_a_file_of_the_teacher_alone(resnet18, tmp_path):
    file = {"teacher": within("backbone.", resnet18.state_dict()), "state_dict_ema": ONE}
    assert_same(load(file, tmp_path, part="teacher"), resnet18)
    with pytest.raises(UserError, match=r"DINO \(official layout\) has no backbone in this file: take the teacher"):
        load_backbone(str(tmp_path / "file.pth"))
    assert load(resnet18.state_dict() | {"state_dict_ema": ONE}, tmp_path).unused == ()


def test_layouts_of_vits(vit_tiny, tmp_path):
    tensors = vit_tiny.state_dict()
    mae = {"mask_token": ONE["one"], "decoder_embed.weight": ONE["one"], "decoder_pos_embed": ONE["one"]}
    files = {
        "MAE": {"model": without_fc(tensors) | mae},
        "DINO": dino(without_fc(tensors), {}, None),
        "lightly": {"state_dict": within("backbone.vit.", tensors) | within("decoder.", ONE)},
        "lightly, epoch 4": {"state_dict": within("student_backbone.vit.", tensors), "epoch": 4},
        "plain": tensors,
    }
    for name, file in files.items():
        got = load(file, tmp_path)
        assert_same(got, vit_tiny)
        assert got.origin.startswith(name)
        assert got.config == BackboneConfig("timm/vit_tiny_patch16_224", options={"img_size": 32})


def test_mocos_small_vit_has_twelve_heads(tmp_path):
    network = vit(embed_dim=384, num_heads=12)
    got = load(moco(within("base_encoder.", network.state_dict()), "module.", arch="vit_small"), tmp_path)
    assert_same(got, network)
    assert got.config.options == {"num_heads": 12, "img_size": 32}


def test_solo_learns_small_vits_do_not_tell_their_heads(vit_tiny, tmp_path):
    file = solo_learn(vit_tiny.state_dict(), {}, None)
    with pytest.raises(
        UserError, match=r"\(solo-learn\) does not tell its network: say which it is, as --backbone.name"
    ):
        load(file, tmp_path)
    asked = BackboneConfig("timm/vit_tiny_patch16_224", options={"img_size": 32})
    assert_same(load(file, tmp_path, backbone=asked), vit_tiny)


def test_small_stems_with_the_padding_of_whoever_trained_them(tmp_path):
    network = resnet(small_images=True)
    got = load({"state_dict": within("backbone.", network.state_dict())}, tmp_path)
    assert got.config == BackboneConfig("resnet18", small_images=True)
    assert_same(got, network)
    network.conv1.padding = (2, 2)
    both = within("momentum_encoder.", network.state_dict()) | within("encoder.", zeros(network.state_dict()))
    got = load({"state_dict": both | within("classifier.", ONE)}, tmp_path, part="teacher")
    assert got.origin == "solo-learn" and got.config == BackboneConfig("resnet18", small_images=True, stem_padding=2)
    assert_same(got, network)


def test_a_classifier_alone_is_not_solo_learns(tmp_path):
    network = resnet(small_images=True)
    file = {"state_dict": within("backbone.", network.state_dict()) | within("classifier.", ONE)}
    got = load(file, tmp_path)
    assert got.origin == "a module with a backbone" and got.config.stem_padding == 1
    assert_same(got, network)


def test_solo_learns_mae_is_known_by_its_decoder(vit_tiny, tmp_path):
    tensors = within("backbone.", vit_tiny.state_dict()) | within("decoder.decoder_embed.", ONE)
    with pytest.raises(UserError, match=r"\(solo-learn\) does not tell its network"):
        load({"state_dict": tensors | within("classifier.", ONE)}, tmp_path)


def test_lightlys_own_resnet(tmp_path):
    from lightly.models import ResNetGenerator

    network: Any = trained(ResNetGenerator("resnet-18"))
    file = {"state_dict": within("backbone.", numbered(network)) | within("projection_head.", ONE)}
    got = load(file, tmp_path)
    assert got.config == BackboneConfig("resnet18", small_images=True) and got.origin == "lightly"
    network.linear = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(got.backbone(images()), network(images()), rtol=1e-5, atol=1e-5)
