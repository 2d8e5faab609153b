"""The benchmark runs, and compares what it says."""

import json

import torch

from methods.mae import MAE
from scripts.benchmark.mae import encoder, main, whole
from tests.support.methods import small

SIZES = ["--backbone", "timm/vit_tiny_patch16_224", "--image-size", "16", "--patch-size", "4"]


def test_writes_a_ratio_for_encoder_and_whole(tmp_path, capsys):
    out = tmp_path / "results" / "mae.json"
    main([*SIZES, "--batch-size", "2", "--rounds", "2", "--out", str(out)])
    report = json.loads(out.read_text())
    assert (report["mask_ratio"], report["batch_size"]) == (0.75, 2)
    assert [result["part"] for result in report["results"]] == ["encoder", "whole"]
    printed = capsys.readouterr().out
    assert "75% hidden" in printed
    for result in report["results"]:
        assert 0 < result["ratio_min"] <= result["ratio"] <= result["ratio_max"]
        assert f"{result['ratio']:.3f} (" in printed


def test_masking_shortens_the_encoders_sequences_and_no_others():
    module = small(MAE)
    assert isinstance(module, MAE)
    lengths: dict[str, list[int]] = {"encoder": [], "decoder": []}
    module.backbone.blocks.register_forward_hook(lambda m, args, out: lengths["encoder"].append(out.shape[1]))
    module.decoder.blocks.register_forward_hook(lambda m, args, out: lengths["decoder"].append(out.shape[1]))
    images = torch.randn(2, 3, 16, 16)
    for ratio in (0.75, 0.0):
        assert encoder(module, images, ratio).isfinite()
        assert whole(module, images, ratio).isfinite()
    assert lengths == {"encoder": [5, 5, 17, 17], "decoder": [17, 17]}
