"""The benchmark runs, and compares what it says."""

import json

import torch
from torch import nn

from methods.backbones import BackboneConfig
from scripts.benchmark.fast_moco import cases, main


def test_writes_a_ratio_for_each_case(tmp_path, capsys):
    out = tmp_path / "results" / "fast_moco.json"
    sizes = ["--backbone", "convnet", "--image-size", "16", "--batch-size", "4", "--rounds", "2"]
    main([*sizes, "--out", str(out)])
    report = json.loads(out.read_text())
    assert report["batch_size"] == 4
    assert report["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert len(report["results"]) == 2
    printed = capsys.readouterr().out
    for result in report["results"]:
        assert 0 < result["ratio_min"] <= result["ratio"] <= result["ratio_max"]
        assert f"{result['ratio']:.3f} (" in printed


def test_equal_heads_are_equal():
    papers, equal = cases(BackboneConfig("convnet", options={"width": 4}))

    def shapes(module: nn.Module) -> list[torch.Size]:
        return [p.shape for p in module.parameters()]

    assert shapes(papers.fast_moco) != shapes(papers.moco_v3)
    assert shapes(equal.fast_moco) == shapes(equal.moco_v3)
    assert len(equal.moco_v3.ema_pairs()[0].parameters()[0]) == len(equal.moco_v3.ema_pairs()[0].parameters()[1])
