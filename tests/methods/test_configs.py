"""Where a run without an optimiser of its own is told to look."""

import logging
from pathlib import Path

import pytest

from methods import AlignUniform, MoCo, SimSiam
from methods.configs import configs_of
from methods.optim import OptimConfig
from tests.support.methods import DINOOnViT, all_methods, small, views
from tests.support.replay import Prepared, quiet_trainer
from tests.support.toy_moco import ToyMoCo

ROOT = Path(__file__).resolve().parents[2]


def test_every_method_has_one_and_those_of_ones_own_have_none():
    for method in set(all_methods()) - {DINOOnViT, ToyMoCo}:
        assert configs_of(method), method
        assert all((ROOT / path).is_file() for path in configs_of(method))
    assert configs_of(DINOOnViT) == configs_of(ToyMoCo) == []


def test_those_of_the_papers_come_first():
    assert configs_of(MoCo) == ["configs/imagenet/moco_v1.yaml", "configs/imagenet/moco_v2.yaml"]
    assert configs_of(AlignUniform) == ["configs/cifar10/align_uniform.yaml"]  # its only one


@pytest.mark.parametrize(
    ("optim", "told"), [(OptimConfig(), True), (OptimConfig("sgd", options={"momentum": 0.9}), False)]
)
def test_a_run_without_an_optimiser_of_its_own_is_told(optim, told, caplog):
    with caplog.at_level(logging.INFO, "pytorch_lightning"):
        quiet_trainer([], max_steps=1, limit_val_batches=0).fit(
            small(SimSiam, optim=optim), datamodule=Prepared([views(SimSiam, 4)], [], None)
        )
    assert ("SimSiam's own: see configs/imagenet/simsiam.yaml." in caplog.text) is told
