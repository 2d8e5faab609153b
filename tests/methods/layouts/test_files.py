"""What a file may hold, and what is refused: other networks' tensors, code, no checkpoint."""

import argparse
import os
import pathlib
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.errors import UserError
from methods.backbones import BackboneConfig
from methods.layouts.files import read_file
from methods.pretrained import load_backbone
from tests.support.foreign_files import (
    ONE,
    features,
    images,
    load,
    within,
)


def test_numbers_as_names(tmp_path):
    with pytest.raises(UserError, match="does not tell its network"):
        load({0: torch.ones(1), "state": {1: torch.ones(1)}}, tmp_path)


def test_files_without_counts_of_batches_and_in_half_precision(resnet18, tmp_path):
    tensors = {n: t.half() for n, t in resnet18.state_dict().items() if not n.endswith("num_batches_tracked")}
    got = load(tensors, tmp_path)
    assert got.loaded == 100 and next(got.backbone.parameters()).dtype == torch.float32
    with torch.no_grad():
        wanted = features(resnet18)
        torch.testing.assert_close(got.backbone(images()), wanted, rtol=1e-2, atol=1e-2)  # half keeps three digits


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
