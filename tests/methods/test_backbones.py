"""Every kind of backbone: its size, its channels, the names of its weights, and what it says to wrong settings."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from datamodules.errors import UserError
from methods.backbones import BackboneConfig, build_backbone, channels_of

VIT = {"img_size": 32, "patch_size": 8, "depth": 1}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "config",
    [
        {"name": "convnet", "options": {"width": 4}},
        {"name": "resnet18"},
        {"name": "resnet18", "small_images": True},
        {"name": "timm/resnet18", "small_images": True},
        {"name": "timm/vit_tiny_patch16_224", "options": VIT},
        {"name": "vit_tiny_patch16_224", "options": VIT | {"global_pool": "avg"}},
        {"name": "mobilenetv3_small_050"},  # widens behind the pooling
    ],
    ids=lambda c: c["name"] + "_small" * c.get("small_images", False),
)
def test_features_have_the_announced_size_for_any_channels(config, channels):
    network = build_backbone(BackboneConfig(in_channels=channels, **config)).eval()
    features = network(torch.randn(2, channels, 32, 32))
    assert features.shape == (2, network.feature_dim)
    assert features.isfinite().all()
    assert channels_of(network) == channels


@pytest.mark.parametrize(
    ("name", "dim"),
    [("resnet50", 2048), ("mobilenet_v2", 1280), ("convnext_tiny", 768), ("densenet121", 1024)],
)
def test_torchvision_families_lose_their_classifier_only(name, dim):
    network = build_backbone(BackboneConfig(name)).eval()
    assert network(torch.randn(1, 3, 32, 32)).shape == (1, dim)
    assert network.feature_dim == dim
    original = torchvision.models.get_model(name)
    missing, unexpected = original.load_state_dict(network.state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith(("fc.", "classifier.")) for key in missing)
    assert not any(isinstance(m, nn.Dropout) and m.p > 0 for m in network.modules())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_load_strictly_in_torchvision(name):
    ours, theirs = build_backbone(BackboneConfig(name)).eval(), torchvision.models.get_model(name).eval()
    del theirs.fc  # and nothing else
    theirs.load_state_dict(ours.state_dict(), strict=True)
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(ours(images), theirs(images))


def test_timm_models_load_strictly_in_timm():
    ours = build_backbone(BackboneConfig("timm/vit_tiny_patch16_224", options=VIT)).eval()
    theirs = timm.create_model("vit_tiny_patch16_224", **VIT).eval()
    theirs.reset_classifier(0)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_small_images_keep_names_and_resolution(name):
    small, standard = (build_backbone(BackboneConfig(name, small_images=s)) for s in (True, False))
    assert list(small.state_dict()) == list(standard.state_dict())
    different = [k for k, v in small.state_dict().items() if v.shape != standard.state_dict()[k].shape]
    assert different == ["conv1.weight"]
    seen: list[torch.Size] = []
    small.layer1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    small.eval()(torch.randn(1, 3, 32, 32))
    assert seen[0][2:] == (32, 32)  # no pixel is lost before the first block
    spread = (
        float(small.conv1.weight.detach().std()) / (2 / (64 * 3 * 3)) ** 0.5
    )  # He's normal initialisation over the fan-out
    assert spread == pytest.approx(1, abs=0.1)


OWN = """
from torch import nn


class Tiny(nn.Module):
    def __init__(self, width=8, known=True):
        super().__init__()
        self.layer = nn.Conv2d(1, width, 3)
        if known:
            self.feature_dim = width

    def forward(self, images):
        return self.layer(images).mean((2, 3))
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch) -> str:
    (tmp_path / "my_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_networks.Tiny"


def test_a_class_of_ones_own(own_module):
    network = build_backbone(BackboneConfig(own_module, options={"width": 5}))
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, network.feature_dim) == (2, 5)
    assert channels_of(network) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"options": {"known": False}}, "feature_dim"),
        ({"options": {"wide": 5}}, "wide"),
        ({"in_channels": 1}, "backbone.options"),  # would be ignored
        ({"small_images": True}, "backbone.options"),
        ({"pretrained": True}, "backbone.options"),
    ],
)
def test_what_a_class_of_ones_own_cannot_take(own_module, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build_backbone(BackboneConfig(own_module, **settings))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "resnet81"}, "did you mean .*resnet18"),
        ({"name": "timm/vit_tiny_patch16_242"}, "did you mean .*vit_tiny_patch16_224"),
        ({"name": "convnett"}, "did you mean .*convnet"),
        ({"name": ""}, "known neither"),
        ({"name": "no_such_module.Net"}, "cannot be imported"),
        ({"name": "torch.nn.Nothing"}, "cannot be imported"),
        ({"name": ".Net"}, "cannot be imported"),
        ({"name": "convnet", "options": {"wide": 3}}, "wide"),
        ({"name": "convnet", "pretrained": True}, "no weights"),
        ({"name": "resnet18", "options": {"zero_init": True}}, "zero_init"),
        ({"name": "timm/vit_tiny_patch16_224", "options": {"img_sze": 32}}, "img_sze"),
        (
            {"name": "timm/vit_tiny_patch16_224", "options": {"num_heads": 5}},
            "divisible by num_heads.*backbone.options",
        ),
        ({"name": "resnet18", "options": {"norm_layer": 3}}, "not callable.*backbone.options"),
        ({"name": "resnet18", "options": {"replace_stride_with_dilation": [True]}}, "3-element.*backbone.options"),
        ({"name": "mobilenet_v3_small", "in_channels": 1}, "takes 3 channels.*timm/mobilenet_v3_small"),
        ({"name": "mobilenet_v3_small", "small_images": True}, "no small-image stem"),
        ({"name": "timm/vit_tiny_patch16_224", "small_images": True, "options": VIT}, "no small-image stem"),
        ({"name": "timm/resnet26d", "small_images": True}, "no small-image stem"),  # three convolutions in one's place
        ({"name": "resnet18", "pretrained": True, "small_images": True}, "one of the two.*larger --data.image_size"),
        ({"name": "timm/resnet18", "pretrained": True, "small_images": True}, "one of the two"),
        ({"name": "resnet18", "pretrained": True, "in_channels": 1}, "3 channels.*in_channels is 1.*timm/resnet18"),
        ({"name": "squeezenet1_1"}, "no linear classifier"),
        ({"name": "googlenet", "options": {"init_weights": False}}, "aux_logits"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else None,
)
def test_mistakes_are_answered_with_a_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build_backbone(BackboneConfig(**settings))


def test_channels_are_those_of_the_first_convolution():
    assert channels_of(nn.Sequential(nn.ReLU(), nn.Conv2d(5, 2, 1), nn.Conv2d(2, 7, 1))) == 5
    assert channels_of(nn.Linear(3, 3)) is None
