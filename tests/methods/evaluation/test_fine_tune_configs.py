"""The configurations of fine-tuning and transfer take a step, from scratch and on synthetic pictures."""

from pathlib import Path

import pytest
import yaml

from tests.support.commands import ROOT, cli

pytestmark = pytest.mark.process
NETWORKS = {"fine_tune_vit": "timm/vit_tiny_patch16_224"}
CONFIGS = sorted([*(ROOT / "configs/eval").glob("fine_tune*.yaml"), *(ROOT / "configs/eval").glob("transfer_*.yaml")])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_takes_a_step(config, synthetic: Path, tmp_path):
    data = yaml.safe_load(config.read_text())["data"]["class_path"]
    paths = {"CIFAR10": synthetic, "HFImages": synthetic / "cifar10", "ImageFolder": synthetic / "folders"}
    path = ("--data.path", str(paths[data])) if data in paths else ()  # the digits are always at hand
    network = ("--model.backbone.name", NETWORKS.get(config.stem, "convnet"))
    network += () if path else ("--model.backbone.in_channels", "1")
    small = ("--data.batch_size", "4", "--data.eval_batch_size", "4", "--data.num_workers", "0")
    code, text = cli(
        *("fit", "--config", str(config), *path, *network, *small),
        *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.fast_dev_run", "true"),
        folder=tmp_path,
    )
    assert code == 0, text
    assert "Fine-tuning: top1" in text and "from scratch" in text
    header = "".join(line for line in config.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"--config configs/eval/{config.name}" in header and "Expected" in header
