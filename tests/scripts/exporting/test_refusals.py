"""What is not exported, and the sentence that says why."""

import importlib
import importlib.util
from pathlib import Path

import pytest
import torch

from methods import SimCLR
from methods.backbones import BackboneConfig
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
    refusal,
)
from tests.support.methods import VIT


@pytest.mark.parametrize(
    ("arguments", "to", "message"),
    [
        (
            {},
            "torchvision",
            "--to torchvision cannot hold this convnet: torchvision does not have that network. Choose",
        ),
        ({}, "hf", "Choose --to safetensors or onnx."),
        ({"backbone": CIFAR_RESNET}, "hf", "stem for small images from a configuration. Choose --to torchvision or ti"),
        ({"backbone": VIT}, "torchvision", "under that name. Choose --to timm or safetensors or onnx or hf."),
        (
            {"backbone": CIFAR_RESNET, "batch_norm": "none"},
            "timm",
            "(batch_norm: none), which timm does not have. Choose --to safetensors or onnx.",
        ),
        ({}, "safetensors --part teacher", "SimCLR has no teacher"),
        ({}, "safetensors --out x.pth", "--out x.pth: the file of --to safetensors ends in .safetensors."),
        ({}, "safetensors --out no/x.safetensors", "--out no/x.safetensors: there is no folder no to write to"),
        ({}, "hf --out last.ckpt", "--to hf cannot hold"),
        ({"backbone": VIT}, "hf --out last.ckpt", "last.ckpt/config.json cannot be written: last.ckpt is in its"),
        ({}, "tim", "torchvision"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_be_mended_is_said_in_a_sentence(arguments, to, message, tmp_path, monkeypatch, capsys):
    make(SimCLR, tmp_path, **arguments)
    told = refusal(monkeypatch, capsys, "last.ckpt", "--to", *to.split())
    assert message in told
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_nothing_is_written_over_unasked(tmp_path, monkeypatch, capsys):
    module = make(SimCLR, tmp_path)
    flags = ("last.ckpt", "--to", "safetensors", "--out", "x.safetensors")
    for taken in ("x.safetensors", "x.safetensors.md"):
        Path(taken).write_text("mine")
        assert f"{taken} is there already: add --overwrite" in refusal(monkeypatch, capsys, *flags)
        assert Path(taken).read_text() == "mine"
        Path(taken).unlink()
    Path("x.safetensors").write_text("mine")
    command(monkeypatch, *flags, "--overwrite")
    assert_same(lines_of(Path("x.safetensors.md")), module.backbone, images())


def test_what_comes_back_otherwise_is_not_kept(tmp_path, monkeypatch, capsys):
    make(SimCLR, tmp_path, backbone=CIFAR_RESNET)
    Path("x.pth").write_text("mine")
    right = formats.plain_tensors

    def wrong(given):
        tensors = right(given)
        tensors["layer4.1.bn2.bias"] += 2e-4  # which the mean over positions hands on
        return tensors

    monkeypatch.setattr(formats, "plain_tensors", wrong)
    told = refusal(monkeypatch, capsys, "last.ckpt", "--to", "torchvision", "--out", "x.pth", "--overwrite")
    assert "What was written gives other features than the network, by up to 2.0e-04" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "x.pth"]
    assert Path("x.pth").read_text() == "mine"


def test_a_diverged_network_is_told_from_a_bad_file(tmp_path, monkeypatch, capsys):
    module = make(SimCLR, tmp_path)
    file = torch.load("last.ckpt", weights_only=True)
    file["state_dict"] = {name: tensor * float("nan") for name, tensor in module.state_dict().items()}
    torch.save(file, "last.ckpt")
    assert "training diverged" in refusal(monkeypatch, capsys, "last.ckpt", "--to", "safetensors")


def test_a_network_that_takes_other_images_is_told_from_a_bad_file(tmp_path, monkeypatch, capsys):
    make(SimCLR, tmp_path, images={"data": "CIFAR10", "image_size": None})
    monkeypatch.setattr(
        export, "load_backbone", lambda *_: pretrained(torch.nn.Linear(3, 4), BackboneConfig("convnet"))
    )
    told = refusal(monkeypatch, capsys, "last.ckpt", "--to", "safetensors")
    assert "does not take images [3, 3, 224, 224] (mat1 and mat2" in told


def test_what_onnx_has_no_words_for_is_said_in_a_sentence(tmp_path, monkeypatch, capsys):
    def unable(*_, **__):
        raise torch.onnx.errors.OnnxExporterError("a long\naccount") from ValueError(
            "data-dependent loop\nwith a stack"
        )

    make(SimCLR, tmp_path)
    monkeypatch.setattr(torch.onnx, "export", unable)
    told = refusal(monkeypatch, capsys, "last.ckpt", "--to", "onnx")
    assert "cannot put ConvNet into ONNX (data-dependent loop): choose another --to" in told
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys):
    make(SimCLR, tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    told = refusal(monkeypatch, capsys, "last.ckpt", "--to", "onnx")
    assert "--to onnx needs onnxruntime: pip install onnx onnxscript onnxruntime" in told


def test_a_strangers_options_are_never_run(tmp_path, monkeypatch, capsys):
    make(SimCLR, tmp_path, backbone=BackboneConfig("convnet", options={"width": 4}))
    file = torch.load("last.ckpt", weights_only=True)
    (tmp_path / "evil_to_export.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Linear):\n    feature_dim = 1\n\n    def __init__(self, **_):\n"
        "        super().__init__(1, 1, bias=False)\n\n    def forward(self, x):\n        return x.mean((2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("evil_to_export")  # else its very name is refused
    for options in ({"x=open('seen', 'w'), y": 1}, {"x": {"y": float("inf")}}):
        file["hyper_parameters"]["backbone"] = {"name": "evil_to_export.Net", "options": options}
        file["state_dict"] = {"backbone.weight": torch.ones(1, 1)}
        torch.save(file, "last.ckpt")
        assert "The network's" in refusal(monkeypatch, capsys, "last.ckpt", "--to", "safetensors")
    assert not Path("seen").exists()
