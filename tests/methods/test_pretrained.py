"""Networks out of this project's own checkpoints."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import nn

from datamodules import Digits
from datamodules.errors import UserError
from methods import BYOL, DINO, SimCLR
from methods.backbones import BackboneConfig, build_backbone
from methods.base import SSLModule
from methods.evaluation.fine_tune import FineTune
from methods.layouts.own import images_of
from methods.modules.norm_layers import GroupNorm, WSConv2d
from methods.pretrained import Pretrained, load_backbone
from tests.support.methods import VIT, all_methods, small


def stirred(module: SSLModule) -> SSLModule:
    """With numbers everywhere that no fresh network has, as its run would have them on disk; in eval mode."""
    module.configure_model()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
    return module.eval()


def saved(module: SSLModule, folder: Path, **more: Any) -> str:
    """A checkpoint with what evaluation reads of it, as Lightning lays it out."""
    file: dict[str, Any] = {"epoch": 9, "global_step": 390, "hyper_parameters": dict(module.hparams)}
    torch.save(file | {"state_dict": module.state_dict()} | more, folder / "last.ckpt")
    return str(folder / "last.ckpt")


def images(channels: int = 3) -> torch.Tensor:
    return torch.randn(3, channels, 16, 16)


def assert_same(got: Pretrained, network: nn.Module) -> None:
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(got.backbone(x), network(x), rtol=0, atol=0)
    assert got.loaded == len(network.state_dict()) and got.unused == ()


@pytest.mark.parametrize("method", all_methods(), ids=lambda method: method.__name__)
def test_every_method_gives_its_backbone_and_its_teacher(method, tmp_path):
    module: Any = stirred(small(method))
    path = saved(module, tmp_path, method=method.__name__)
    got = load_backbone(path)
    assert_same(got, module.backbone)
    assert got.origin == f"{method.__name__}, step 390" and got.part == "backbone"
    assert got.backbone.feature_dim == module.feature_dim and not got.backbone.training
    teacher = getattr(module, "teacher", None) or getattr(module, "key_backbone", None)
    if teacher is None:
        with pytest.raises(UserError, match=f"last.ckpt: {method.__name__} has no teacher: take the backbone."):
            load_backbone(path, part="teacher")
    else:
        got = load_backbone(path, part="teacher")
        assert_same(got, getattr(teacher, "backbone", teacher))
        assert got.part == "teacher"


@pytest.mark.parametrize("choice", ["sync", "shuffle", "split:2", "none"])
def test_every_choice_of_norms_can_be_loaded(choice, tmp_path):
    backbone = BackboneConfig("resnet18", small_images=True)
    module = stirred(small(SimCLR, batch_norm=choice, backbone=backbone))
    got = load_backbone(saved(module, tmp_path))
    assert_same(got, module.backbone)
    assert got.batch_norm == ("none" if choice == "none" else "local")
    assert any(isinstance(layer, GroupNorm | WSConv2d) for layer in got.backbone.modules()) == (choice == "none")


@pytest.mark.slow
def test_compiled_networks_keep_their_names(tmp_path):
    module = stirred(small(BYOL))
    for network in module.children():
        network.compile()
    got = load_backbone(saved(module, tmp_path), part="teacher")
    assert got.loaded == len(got.backbone.state_dict())


def test_positions_for_another_image_size(tmp_path):
    module = stirred(small(DINO, backbone=VIT))
    path = saved(module, tmp_path)
    larger = BackboneConfig(VIT.name, options=VIT.options | {"img_size": 32})
    got = load_backbone(path, backbone=larger)
    assert got.config == larger
    assert got.backbone(torch.randn(1, 3, 32, 32)).shape == (1, 16)


class Plain(LightningDataModule):
    """A user's own, which says little, and that in other types."""

    mean = torch.tensor([0.5, 0.25])
    std = np.array([1.0, 2.0])
    image_size = "large"


def test_what_is_said_of_the_images():
    data = Digits()
    told = {"mean": [0.0767], "std": [0.2190], "image_size": 28, "num_channels": 1, "num_classes": None}
    assert images_of(data) == {"data": "Digits"} | told
    nothing = {"image_size": None, "num_channels": None, "num_classes": None}
    assert images_of(Plain()) == {"data": "Plain", "mean": [0.5, 0.25], "std": [1.0, 2.0]} | nothing
    assert images_of(None) is None


def test_a_checkpoint_of_lightnings_trainer_says_it_all(tmp_path):
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.strategy.connect(small(SimCLR))
    trainer.strategy.lightning_module.trainer = trainer
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    got = load_backbone(str(tmp_path / "a.ckpt"))
    assert got.origin == "SimCLR, step 0" and got.images is None


def test_a_whole_run(digits_checkpoint):
    got = load_backbone(str(digits_checkpoint))
    assert got.origin == "SimCLR, step 22"
    assert got.config == BackboneConfig("convnet", in_channels=1, options={"width": 8})
    assert got.images and got.images["data"] == "Digits" and got.images["num_classes"] == 10
    assert (digits_checkpoint.parents[1] / "config.yaml").is_file()


def test_the_class_of_the_method_may_be_gone(tmp_path):
    module = stirred(small(SimCLR))
    module.hparams["_class_path"] = "a_file_since_deleted.ColdSimCLR"
    got = load_backbone(saved(module, tmp_path))
    assert_same(got, module.backbone)
    assert got.origin == "ColdSimCLR, step 390"


class Spiral(nn.Module):
    """A backbone of the user's own."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.weight = nn.Parameter(torch.ones(feature_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3))[:, None] * self.weight


def test_a_file_does_not_say_what_to_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone = {"name": "os.system", "options": {"command": "touch executed"}}
    file = {
        "hyper_parameters": {"backbone": backbone, "batch_norm": "local"},
        "state_dict": {"backbone.w": torch.ones(1)},
    }
    torch.save(file, "evil.ckpt")
    with pytest.raises(UserError, match="asks for the backbone 'os.system', which is no subclass of torch.nn.Module"):
        load_backbone("evil.ckpt")
    assert not Path("executed").exists()
    backbone |= {"name": "timm/resnet18", "options": {"checkpoint_path": "second.pth"}}
    torch.save(file, "two.ckpt")
    with pytest.raises(UserError, match="asks for a backbone with the option 'checkpoint_path', which opens further"):
        load_backbone("two.ckpt")
    backbone["kind"] = "new"
    torch.save(file, "new.ckpt")
    with pytest.raises(UserError, match="describes its backbone in another way than this version"):
        load_backbone("new.ckpt")


def test_a_backbone_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spirals", sys.modules[__name__])
    module = stirred(small(SimCLR, backbone=BackboneConfig("spirals.Spiral", options={"feature_dim": 5})))
    path = saved(module, tmp_path)
    assert_same(load_backbone(path), module.backbone)
    monkeypatch.delitem(sys.modules, "spirals")
    (tmp_path / "spirals.py").write_text("import pathlib\n\npathlib.Path('executed').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="'spirals.Spiral', and no module is imported on the word of a file"):
        load_backbone(path)
    assert not Path("executed").exists()
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    given = BackboneConfig("mine.Spiral", options={"feature_dim": 5})
    assert_same(load_backbone(path, backbone=given), module.backbone)


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_the_padding_of_anothers_stem_stays_with_the_network(name, tmp_path):
    config = BackboneConfig(name, small_images=True, stem_padding=2)
    module: Any = stirred(small(SimCLR, backbone=config))
    assert module.backbone.conv1.padding == (2, 2)
    got = load_backbone(saved(module, tmp_path))
    assert got.config == config
    assert_same(got, module.backbone)
    with pytest.raises(
        UserError, match="stem_padding=2 is that of the stem for small images: set small_images to true"
    ):
        build_backbone(BackboneConfig(name, stem_padding=2))


def test_fine_tuning_keeps_the_padding_of_solo_learns_stem(tmp_path):
    network = build_backbone(BackboneConfig("resnet18", small_images=True, stem_padding=2))
    tensors = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    one = torch.ones(1)
    torch.save({"state_dict": tensors | {"classifier.w": one, "projector.w": one}}, tmp_path / "solo.ckpt")
    tuned: Any = FineTune(str(tmp_path / "solo.ckpt")).eval()
    file = {"hyper_parameters": dict(tuned.hparams), "state_dict": tuned.state_dict(), "global_step": 3}
    torch.save(file, tmp_path / "tuned.ckpt")
    assert_same(load_backbone(str(tmp_path / "tuned.ckpt")), tuned.backbone)
