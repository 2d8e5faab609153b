"""Files as other people's code writes them: each is made here from a network whose outputs are known."""

import argparse
import json
import os
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from datamodules.errors import UserError
from methods.backbones import BackboneConfig, build_backbone
from methods.layouts.files import read_file
from methods.layouts.networks import RESNETS, network_of
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
    network = torchvision.models.resnet18()
    if small_images:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return trained(network)


def vit(**options: Any) -> Any:
    """timm's smallest ViT of a usual width, for images of 32 px."""
    return trained(timm.create_model("vit_tiny_patch16_224", **{"img_size": 32} | options))


@pytest.fixture(scope="module")
def resnet18() -> Any:
    return resnet()


@pytest.fixture(scope="module")
def vit_tiny() -> Any:
    return vit()


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


def test_shapes_tell_patches_images_channels_scales_and_pooling(tmp_path):
    network = vit(patch_size=8, img_size=40, in_chans=2, init_values=0.1, global_pool="avg")
    got = load(network.state_dict(), tmp_path)
    options = {"patch_size": 8, "img_size": 40, "init_values": 1e-5, "global_pool": "avg"}
    assert got.config == BackboneConfig("timm/vit_tiny_patch16_224", in_channels=2, options=options)
    x = images(40)[:, :2]
    with torch.no_grad():
        wanted = network.forward_head(network.forward_features(x), pre_logits=True)
        torch.testing.assert_close(got.backbone(x), wanted, rtol=0, atol=0)


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


def timm_folder(folder: Any, network: nn.Module, **told: Any) -> str:
    """What timm downloads: weights with a description beside them."""
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224"} | told))
    return str(folder / "model.safetensors")


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


def assert_same_vit(got: Pretrained, network: nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(got.backbone(images()), features(network), rtol=0, atol=0)


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


def test_numbers_as_names(tmp_path):
    with pytest.raises(UserError, match="does not tell its network"):
        load({0: torch.ones(1), "state": {1: torch.ones(1)}}, tmp_path)


def test_other_architectures_by_the_name_in_the_file(tmp_path):
    tensors = torchvision.models.squeezenet1_1().state_dict() | torchvision.models.mobilenet_v2().state_dict()
    with pytest.raises(UserError, match=r"does not fit the network mobilenet_v2, which .*has beyond it 50 \(features"):
        load(moco(tensors, "module.", arch="mobilenet_v2"), tmp_path)
    tensors = torchvision.models.mobilenet_v2().state_dict()
    assert load(moco(tensors, "module.", arch="mobilenet_v2"), tmp_path).config == BackboneConfig("mobilenet_v2")
    assert load(zeros(timm.create_model("seresnet50").state_dict()) | {"arch": "seresnet50"}, tmp_path).loaded > 0


def test_files_without_counts_of_batches_and_in_half_precision(resnet18, tmp_path):
    tensors = {n: t.half() for n, t in resnet18.state_dict().items() if not n.endswith("num_batches_tracked")}
    got = load(tensors, tmp_path)
    assert got.loaded == 100 and next(got.backbone.parameters()).dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(
            got.backbone(images()), features(resnet18), rtol=0.05, atol=0.05
        )  # half precision keeps three digits of a weight


def test_a_wrong_network_is_refused_with_what_is_missing(resnet18, tmp_path):
    tensors = resnet18.state_dict()
    with pytest.raises(
        UserError,
        match=r"file.pth \(plain weights\) does not fit the network resnet34, which has 216 tensors: it lacks 80 "
        r"\(layer1.2.conv1.weight, layer1.2.bn1.weight, layer1.2.bn1.bias and 77 more\). Say which it is by --backbone",
    ):
        load(tensors, tmp_path, backbone=BackboneConfig("resnet34"))
    with pytest.raises(UserError, match=r"has in other shapes 1 \(conv1.weight \[64, 3, 7, 7\] for \[64, 3, 3, 3\]\)"):
        load(tensors, tmp_path, backbone=BackboneConfig("resnet18", small_images=True))
    with pytest.raises(UserError, match=r"it has beyond it 1 \(layer1.0.se.fc1.weight\)"):
        load(tensors | {"layer1.0.se.fc1.weight": torch.ones(1)}, tmp_path)
    tensors.pop("bn1.running_var")
    with pytest.raises(UserError, match=r"it lacks 1 \(bn1.running_var\)"):
        load(tensors, tmp_path)


def test_tokens_that_others_attend_to_are_no_extras(vit_tiny, tmp_path):
    with pytest.raises(UserError, match=r"has beyond it 1 \(reg_token\)"):
        load(vit_tiny.state_dict() | {"reg_token": torch.ones(1, 4, 192)}, tmp_path)
    got = load(vit_tiny.state_dict() | within("teller.", ONE), tmp_path)
    assert got.unused == ("teller.one",)


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


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_never_run(zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = {"state_dict": ONE, "extra": Evil()}
    torch.save(file, "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"evil.pth holds \w+\.system, which only code could rebuild.* is refused"):
        load_backbone("evil.pth")
    pathlib.Path("evil.pkl").write_bytes(pickle.dumps(file))
    with pytest.raises(UserError, match="no checkpoint"):
        load_backbone("evil.pkl")
    assert not pathlib.Path("executed").exists()


def test_a_whole_module_is_refused_with_its_class(tmp_path):
    with pytest.raises(UserError, match="holds torch.nn.modules.linear.Linear, which only code could rebuild"):
        load({"model": nn.Linear(1, 1)}, tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_data_of_training_scripts_is_read(zipped, tmp_path):
    args = argparse.Namespace(lr=np.float32(0.5), folder=pathlib.Path("a") / "b", epochs=np.int64(3))
    torch.save({"args": args, "best": np.float64(0.75), **ONE}, tmp_path / "f", _use_new_zipfile_serialization=zipped)
    found = read_file(str(tmp_path / "f"))
    assert found["args"] == args and found["best"] == 0.75


def test_what_is_no_checkpoint(tmp_path):
    torch.save(ONE, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for content in (b"", b"model: SimCLR\n", whole[: len(whole) // 2]):
        for name in ("file.pth", "file.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError, match=f"{name} is no .*or was not written to its end: give another file"):
                load_backbone(str(tmp_path / name))
    with pytest.raises(UserError, match="there is no such file. A run's newest checkpoint is checkpoints/last.ckpt"):
        load_backbone(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="holds a Tensor, not a dictionary of tensors"):
        load(torch.ones(1), tmp_path)
    with pytest.raises(UserError, match="holds no weights, only epoch, history"):
        load({"epoch": 1, "history": []}, tmp_path)


def test_a_network_without_its_own_name_is_given(tmp_path):
    asked = BackboneConfig("convnet", options={"width": 4})
    network = trained(build_backbone(asked))
    with pytest.raises(UserError, match="does not tell its network"):
        load(network.state_dict(), tmp_path)
    got = load(network.state_dict(), tmp_path, backbone=asked)
    with torch.no_grad():
        torch.testing.assert_close(got.backbone(images()), network(images()), rtol=0, atol=0)
