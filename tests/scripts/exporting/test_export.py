"""Backbones handed over, as a user hands them over and as another loads them."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision

from datamodules.errors import UserError
from methods import BYOL, MAE, MoCo, SimCLR
from methods.backbones import BackboneConfig
from methods.pretrained import load_backbone
from scripts import export
from scripts.exporting import formats
from tests.scripts.exporting.checkpoints import (
    CIFAR_RESNET,
    assert_same,
    command,
    images,
    lines_of,
    make,
    pretrained,
)
from tests.support.methods import VIT


@pytest.mark.parametrize(
    ("method", "backbone", "to", "part"),
    [
        (SimCLR, CIFAR_RESNET, "torchvision", "backbone"),
        (SimCLR, CIFAR_RESNET, "timm", "backbone"),
        (MoCo, BackboneConfig("resnet18", in_channels=1), "torchvision", "teacher"),
        (MoCo, BackboneConfig("resnet18", in_channels=1), "hf", "teacher"),
        (MAE, VIT, "timm", "backbone"),
        (MAE, VIT, "hf", "backbone"),
        (BYOL, VIT, "safetensors", "teacher"),
        (SimCLR, replace(CIFAR_RESNET, name="timm/resnet18"), "torchvision", "backbone"),
    ],
    ids=lambda value: getattr(value, "__name__", getattr(value, "name", value)),
)
def test_the_lines_of_the_card_give_the_networks_features(method, backbone, to, part, tmp_path, monkeypatch, capsys):
    module = make(method, tmp_path, backbone=backbone)
    command(monkeypatch, "last.ckpt", "--to", to, "--part", part)
    network = module.backbone if part == "backbone" else module.teacher.backbone
    written = sorted(path for path in tmp_path.iterdir() if path.name != "last.ckpt")
    assert len(written) == (1 if to == "hf" else 2)
    card = written[0] / "README.md" if to == "hf" else written[1]
    batches = [images(5, channels=backbone.in_channels)]
    if "vit" not in backbone.name:
        batches.append(images(2, 24, backbone.in_channels))
    assert_same(lines_of(card), network, *batches)
    told = capsys.readouterr().out
    assert "differ by at most 0.0e+00" in told
    assert "strict=True" in told or to == "hf"


def test_torchvision_and_timm_load_a_resnet_strictly(tmp_path, monkeypatch):
    module = make(SimCLR, tmp_path, backbone=BackboneConfig("resnet18"))
    command(monkeypatch, "last.ckpt", "--to", "torchvision", "--out", "r18.pth")
    weights = torch.load("r18.pth", weights_only=True)
    theirs: Any = torchvision.models.resnet18(num_classes=7)
    theirs.fc = torch.nn.Identity()
    for network in (theirs, timm.create_model("resnet18", num_classes=0)):
        network.load_state_dict(weights, strict=True)
        with torch.no_grad():
            assert torch.equal(network.eval()(x := images(2, 64)), module.backbone(x))


def test_onnx_runs_without_torch_at_any_batch_and_image_size(digits_checkpoint, tmp_path, monkeypatch, capsys):
    import onnx
    import onnxruntime

    command(monkeypatch, digits_checkpoint, "--to", "onnx", "--out", "digits.onnx")
    session = onnxruntime.InferenceSession("digits.onnx")
    assert session.get_inputs()[0].shape == ["batch", 1, "height", "width"]
    network = load_backbone(str(digits_checkpoint)).backbone
    for batch in (images(1, 24, 1), images(7, 40, 1)):
        with torch.no_grad():
            wanted = network(batch)
        assert (torch.from_numpy(session.run(None, {"images": batch.numpy()})[0]) - wanted).abs().max() <= 1e-5
    assert_same(lines_of(Path("digits.onnx.md")), network, images(3, 24, 1))
    props = {entry.key: entry.value for entry in onnx.load("digits.onnx").metadata_props}
    assert json.loads(props["images"])["data"] == "Digits" and props["part"] == "backbone"
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [{"backbone": CIFAR_RESNET}, {"backbone": VIT}, {"backbone": CIFAR_RESNET, "batch_norm": "none"}],
    ids=["resnet", "vit", "groupnorm"],
)
def test_onnx_holds_other_networks_too(arguments, tmp_path, monkeypatch):
    module = make(SimCLR, tmp_path, **arguments)
    command(monkeypatch, "last.ckpt", "--to", "onnx", "--out", "x.onnx")
    assert_same(lines_of(Path("x.onnx.md")), module.backbone, images(1), images(4))


def test_safetensors_hold_what_no_library_has(tmp_path, monkeypatch):
    from safetensors import safe_open

    for arguments in ({}, {"backbone": CIFAR_RESNET, "batch_norm": "none"}):
        module = make(SimCLR, tmp_path, **arguments)
        command(monkeypatch, "last.ckpt", "--to", "safetensors", "--out", "x.safetensors", "--overwrite")
        assert_same(lines_of(Path("x.safetensors.md")), module.backbone, images(2), images(1, 24))
    with safe_open("x.safetensors", "pt") as file:
        said = file.metadata()
    assert json.loads(said["backbone"])["small_images"] and said["batch_norm"] == "none"
    assert json.loads(said["images"])["mean"] == [0.5, 0.4, 0.3] and said["origin"] == "SimCLR, step 77"


AVERAGED = replace(VIT, options=VIT.options | {"global_pool": "avg", "fc_norm": False})
PADDED = replace(CIFAR_RESNET, stem_padding=2)


@pytest.mark.parametrize(
    ("backbone", "to", "more"),
    [
        (AVERAGED, "safetensors", {}),
        (AVERAGED, "hf", {}),
        (BackboneConfig("resnet18"), "hf", {}),
        (PADDED, "safetensors", {"batch_norm": "none"}),
    ],
    ids=["vit-safetensors", "vit-hf", "resnet-hf", "groupnorm"],
)
def test_an_export_is_read_again_as_the_same_network(backbone, to, more, tmp_path, monkeypatch):
    module = make(SimCLR, tmp_path, backbone=backbone, **more)
    command(monkeypatch, "last.ckpt", "--to", to, "--out", "x.safetensors" if to == "safetensors" else "x")
    got = load_backbone("x.safetensors" if to == "safetensors" else "x/model.safetensors")
    x = images(2)
    with torch.no_grad():
        torch.testing.assert_close(got.backbone(x), module.backbone(x), rtol=0, atol=0)
    assert got.images and got.images["mean"] == [0.5, 0.4, 0.3] and got.images["image_size"] == 16
    if to == "safetensors":
        assert got.origin == "SimCLR, step 77" and got.images["data"] == "CIFAR10" and got.config == backbone
        assert got.batch_norm == more.get("batch_norm", "local")


def test_an_export_says_which_part_it_is(tmp_path, monkeypatch):
    module = make(BYOL, tmp_path, backbone=VIT)
    command(monkeypatch, "last.ckpt", "--to", "safetensors", "--part", "teacher", "--out", "x.safetensors")
    with pytest.raises(UserError, match="x.safetensors is an export of the teacher alone: take the teacher."):
        load_backbone("x.safetensors")
    x = images(2)
    with torch.no_grad():
        got = load_backbone("x.safetensors", part="teacher").backbone(x)
        torch.testing.assert_close(got, module.teacher.backbone(x), rtol=0, atol=0)


def test_an_exports_metadata_open_no_further_file():
    from safetensors.torch import save_file

    told = {"origin": "SimCLR", "part": "backbone", "batch_norm": "local"}
    for backbone, message in (
        ('{"name": "timm/resnet18", "options": {"checkpoint_path": "y"}}', "option 'checkpoint_path', which opens"),
        ('{"name": "antigravity.Net"}', "'antigravity.Net', and no module is imported on the word of a file"),
        ("[1", "has metadata that are not those of an export"),
        ("5", "has metadata that are not those of an export"),
    ):
        save_file({"w": torch.ones(1)}, "x.safetensors", told | {"backbone": backbone})
        with pytest.raises(UserError, match=message):
            load_backbone("x.safetensors")


def test_a_backbone_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "mine_to_export.py").write_text(
        "from torch import nn\n\n\nclass Flat(nn.Sequential):\n    def __init__(self, D):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(3 * 16 * 16, D))\n        self.feature_dim = D\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = make(SimCLR, tmp_path, backbone=BackboneConfig("mine_to_export.Flat", options={"D": 6}))
    command(monkeypatch, "last.ckpt", "--to", "safetensors")
    assert_same(lines_of(tmp_path / "Flat-backbone.safetensors.md"), module.backbone, images())


def test_timm_prepares_images_as_the_run_did(tmp_path, monkeypatch):
    make(MAE, tmp_path, backbone=VIT)
    command(monkeypatch, "last.ckpt", "--to", "hf", "--out", "hub")
    network = timm.create_model("local-dir:hub", pretrained=True)
    prepared = timm.data.resolve_model_data_config(network)
    assert list(prepared["mean"]) == [0.5, 0.4, 0.3] and list(prepared["std"]) == [0.2, 0.3, 0.4]
    assert list(prepared["input_size"]) == [3, 16, 16] and prepared["interpolation"] == "bicubic"
    assert prepared["crop_pct"] == 1 and network.num_classes == 0 and network.num_features == 16
    assert Path("hub/README.md").read_text().startswith("---\nlibrary_name: timm\n")


def test_a_run_says_how_good_its_backbone_is(digits_checkpoint, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(digits_checkpoint.parent.parent, run)
    checkpoint = run / "checkpoints" / digits_checkpoint.name
    command(monkeypatch, checkpoint, "--to", "safetensors")
    text = (run / "convnet-backbone.safetensors.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    assert f"- kNN top-1: {summary['knn_top1']:.1%}\n" in text and f"kNN: {summary['protocol']}." in text
    assert f"- online linear probe top-1: {summary['probe_top1']:.1%}\n" in text
    assert hashlib.sha256((run / "config.yaml").read_bytes()).hexdigest()[:12] + "..." in text
    assert 'Chen et al., "A Simple Framework' in text and "arXiv:2002.05709 |" in text
    assert "| Trained on | Digits |" in text and f"| {summary['step']} optimiser steps |" in text
    assert summary["measured_step"] == summary["step"]
    for measured, told in ((3, "the run last measured it at step 3"), (None, "the run never did")):
        (run / "summary.json").write_text(json.dumps(summary | {"measured_step": measured}))
        command(monkeypatch, checkpoint, "--to", "safetensors", "--overwrite")
        assert f"Not measured: {told}." in (run / "convnet-backbone.safetensors.md").read_text()


def test_what_is_not_known_of_anothers_file_is_left_out(tmp_path, monkeypatch):
    network: Any = pretrained(torchvision.models.resnet18(), BackboneConfig("resnet18")).backbone
    torch.save(network.state_dict(), "theirs.pth")
    command(monkeypatch, "theirs.pth", "--to", "timm", "--backbone.name", "resnet18")
    network.fc = torch.nn.Identity()
    card = Path("resnet18-backbone.timm.pth.md")
    assert_same(lines_of(card), network, images(2, 64))
    text = card.read_text()
    assert "Not measured: the file does not say." in text
    for row in ("Method", "Paper", "Trained on", "Image size", "Normalisation", "Trained for", "Configuration"):
        assert f"| {row} |" not in text, row


def test_the_default_place_is_the_run_and_a_folder_takes_the_default_name(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("data: {class_path: datamodules.Digits}\n")
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    given = pretrained(torch.nn.Identity(), BackboneConfig("timm/vit_tiny_patch16_224.augreg_in21k"))

    def placed(to: str, checkpoint: str, out: str | None) -> str:
        return str(export.place(to, formats.FORMATS[to], given, checkpoint, out))

    assert placed("onnx", "run/checkpoints/last.ckpt", None) == "run/vit_tiny_patch16_224-backbone.onnx"
    assert placed("timm", "elsewhere.pth", None) == "vit_tiny_patch16_224-backbone.timm.pth"
    assert placed("hf", "elsewhere.pth", None) == "vit_tiny_patch16_224-backbone-hf"
    assert placed("timm", "elsewhere.pth", "run/") == "run/vit_tiny_patch16_224-backbone.timm.pth"
    assert placed("hf", "elsewhere.pth", "run") == "run"
    with pytest.raises(UserError, match="no folder nowhere to write to"):
        placed("timm", "elsewhere.pth", "nowhere/")
