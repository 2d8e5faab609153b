"""Levels of a network: equal to running its parts by hand, and invisible to everything else."""

import copy

import pytest
import torch
from torch import nn

from datamodules.errors import UserError
from methods.backbones import BackboneConfig, build_backbone
from methods.modules.levels import level_features, tap_levels

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
CONVNET = BackboneConfig("convnet", options={"width": 4})


def by_hand(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Stem, then stage by stage, of either library's ResNet with a small-image stem."""
    relu = network.relu if hasattr(network, "relu") else network.act1
    x, levels = relu(network.bn1(network.conv1(images))), []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
        levels.append(x.mean((2, 3)))
    return levels


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_the_stages_of_a_resnet(name):
    network = build_backbone(BackboneConfig(name, small_images=True)).eval()
    expected = by_hand(network, IMAGES)
    names = list(network.state_dict())
    assert tap_levels(network, None) == [64, 128, 256, 512]
    assert list(network.state_dict()) == names
    for level, reference in zip(level_features(network, IMAGES), expected, strict=True):
        torch.testing.assert_close(level, reference, rtol=1e-5, atol=1e-6)


def test_the_blocks_of_convnet():
    network = build_backbone(CONVNET)
    assert tap_levels(network, None) == [4, 8, 16, 32]
    assert network.training
    assert all(b.num_batches_tracked == 0 for b in network.modules() if isinstance(b, nn.BatchNorm2d))
    network.eval()
    x, expected = IMAGES, []
    for layer in network.layers:
        x = layer(x)
        expected.append(x.mean((2, 3)))
    for level, place in zip(level_features(network, IMAGES), [3, 6, 10, 13], strict=True):
        torch.testing.assert_close(level, expected[place])


def test_parts_by_name():
    network = build_backbone(BackboneConfig("mobilenet_v3_small")).eval()
    assert tap_levels(network, ["features.3", "features.8"]) == [24, 48, 576]
    assert [level.shape for level in level_features(network, IMAGES)] == [(3, 24), (3, 48), (3, 576)]


def test_gradients_reach_each_level_and_no_deeper():
    network = build_backbone(CONVNET)
    tap_levels(network, None)
    level_features(network, IMAGES)[1].square().sum().backward()
    has_gradient = [p.grad is not None for p in network.parameters() if p.ndim == 4]  # of the four convolutions
    assert has_gradient == [True, True, False, False]


def test_nothing_is_kept_after_a_pass_or_in_one_without_levels():
    network = build_backbone(CONVNET)
    tap_levels(network, None)
    level_features(network, IMAGES)
    assert network.level_tap.pooled is None
    network(IMAGES)
    assert network.level_tap.pooled is None
    with pytest.raises(RuntimeError):
        level_features(network, IMAGES[:, :2])
    assert network.level_tap.pooled is None


def test_a_copy_has_levels_of_its_own():
    network = build_backbone(CONVNET).eval()
    tap_levels(network, None)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        copied.layers[0].weight.mul_(-1)
    before = level_features(network, IMAGES)
    other = level_features(copied, IMAGES)
    assert not torch.allclose(before[0], other[0])
    assert all(torch.equal(a, b) for a, b in zip(before, level_features(network, IMAGES), strict=True))


def test_a_compiled_network_gives_its_levels_at_every_pass():
    """Hooks that came and went with a pass would fill the first pass's list for ever."""
    plain = build_backbone(CONVNET)
    tap_levels(plain, None)
    compiled = copy.deepcopy(plain)
    compiled.compile(backend="eager")  # traces, and leaves the code generation out
    compiled.eval()(IMAGES)  # an evaluation comes first, as in a run
    for step in range(3):
        images = IMAGES + step
        for level, reference in zip(
            level_features(compiled, images), level_features(plain.eval(), images), strict=True
        ):
            torch.testing.assert_close(level, reference)
        torch.testing.assert_close(compiled(images), plain(images))


class Tokens(nn.Module):
    """A network of one part that runs, gives no map, or is left out."""

    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.unused = nn.Flatten(2), nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.tokens(images).mean(2)


@pytest.mark.parametrize(
    ("network", "names", "sentence"),
    [
        (CONVNET, ["layers.33"], "ConvNet has no part 'layers.33': did you mean layers.3"),
        (BackboneConfig("mobilenet_v3_small"), None, "levels of MobileNetV3 are not known.*--model.levels"),
        (BackboneConfig("timm/vit_tiny_patch16_224", options={"depth": 1}), None, "one size only"),
        (Tokens(), ["tokens"], "'tokens' gives no feature map"),
        (Tokens(), ["unused"], "unused did not run"),
    ],
    ids=["unknown", "unnamed", "fixed_size", "no_map", "unused"],
)
def test_what_cannot_be_a_level(network, names, sentence):
    network = build_backbone(network) if isinstance(network, BackboneConfig) else network
    with pytest.raises(UserError, match=sentence):
        tap_levels(network, names)
