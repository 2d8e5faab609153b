"""The lines that rebuild networks in their libraries."""

from typing import Any

import pytest
import torch

import methods
from methods.backbones import BackboneConfig, build_backbone
from methods.base import SSLModule
from scripts.exporting.formats import FORMATS, that_fit
from scripts.exporting.provenance import paper_of
from scripts.exporting.rebuild import lines_in, literal
from tests.scripts.exporting.checkpoints import pretrained


@pytest.mark.parametrize(
    "config",
    [
        BackboneConfig("mobilenet_v3_small"),  # a hidden layer goes with the classifier
        BackboneConfig("efficientnet_b0"),  # a dropout is all that stays in its place
        BackboneConfig("convnext_tiny"),  # norm and flattening stay
        BackboneConfig("shufflenet_v2_x0_5"),
        BackboneConfig("densenet121"),
        BackboneConfig("resnet18", in_channels=2, small_images=True, options={"zero_init_residual": True}),
    ],
    ids=lambda config: config.name,
)
def test_torchvisions_networks_without_their_classifier(config):
    network = build_backbone(config)
    imports, body = lines_in("torchvision", pretrained(network, config))
    names: dict[str, Any] = {}
    exec("\n".join([*imports, *body]), names)
    theirs = names["network"].eval()
    theirs.load_state_dict(network.state_dict(), strict=True)
    x = torch.randn(2, config.in_channels, 64, 64)
    with torch.no_grad():
        assert torch.equal(theirs(x), network(x))


def test_the_stem_of_anothers_cifar_resnet_keeps_its_padding():
    config = BackboneConfig("resnet18", small_images=True, stem_padding=2)
    network = build_backbone(config)
    for library in ("torchvision", "timm"):
        assert any("padding=2" in line for line in lines_in(library, pretrained(network, config)).body), library


def test_which_formats_hold_which_network():
    def fitting(name: str, **fields: Any) -> list[str]:
        config = BackboneConfig(name, **fields)
        return that_fit(pretrained(build_backbone(config), config))

    assert fitting("resnet18") == list(FORMATS)
    assert fitting("timm/resnet18") == list(FORMATS)
    assert fitting("timm/resnet18", options={"act_layer": "gelu"}) == list(FORMATS)  # the round trip finds it out
    assert fitting("densenet121") == list(FORMATS)
    assert fitting("efficientnet_b0") == ["torchvision", "safetensors", "onnx"]  # other names in timm
    assert fitting("timm/resnet18d") == ["timm", "safetensors", "onnx", "hf"]
    assert fitting("convnet") == ["safetensors", "onnx"]


@pytest.mark.parametrize("value", [1, -0.5, None, True, 'a "b" \\ \n é', [1, {"x": (2, "y")}], {"a": [None]}])
def test_a_literal_reads_as_what_it_was(value):
    assert eval(literal(value)) == value and "\n" not in literal(value)


def test_every_method_of_ours_has_a_paper_to_cite():
    ours = [v for v in vars(methods).values() if isinstance(v, type) and issubclass(v, SSLModule)]
    cited = {method.__name__: paper_of(f"methods.{method.__name__}") for method in ours}
    assert all(paper and "arXiv:" in paper and len(paper) < 400 for paper in cited.values()), cited
    assert cited["MoCo"] is not None and "1911.05722" in cited["MoCo"] and "2003.04297" in cited["MoCo"]
    assert paper_of("mine.SimCLR") is None and paper_of("methods.NoSuch") is None and paper_of("methods.base") is None
