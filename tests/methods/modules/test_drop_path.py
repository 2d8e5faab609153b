"""Stochastic depth is switched off."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from methods.backbones import BackboneConfig, build_backbone
from methods.modules.drop_path import without_drop_path
from tests.support.dino import tiny_vit


class Residual(nn.Module):
    """A branch in torchvision's way."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(3, 3, 1), StochasticDepth(0.5, "row"))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def timms() -> nn.Module:
    config = tiny_vit()
    return build_backbone(BackboneConfig(config.name, options=config.options | {"drop_path_rate": 0.5}))


@pytest.mark.parametrize("make", [timms, Residual])
def test_no_branch_is_dropped_in_training(make):
    network, x = make().train(), torch.randn(8, 3, 32, 32)
    whole = without_drop_path(copy.deepcopy(network))
    assert not torch.equal(network(x), network(x))
    assert torch.equal(whole(x), whole(x))
    assert torch.equal(whole(x), network.eval()(x))
