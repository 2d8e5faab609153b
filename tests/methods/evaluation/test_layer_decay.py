"""Rates of each layer against the rule of BEiT and MAE, worked out by hand."""

import pytest
from torchvision.models import VisionTransformer

from datamodules.errors import UserError
from methods.backbones import BackboneConfig, ConvNet, build_backbone
from methods.evaluation.fine_tune import FineTune
from methods.evaluation.layer_decay import decayed, depths
from methods.optim import OptimConfig
from tests.support.methods import VIT

OPTIM = OptimConfig("adamw", lr=1e-3, weight_decay=0.05, warmup_epochs=0)


def scales(network, decay, **config):
    """Name of each parameter -> share of the learning rate, and its weight decay where it is its own."""
    groups = decayed(OPTIM.groups(network), network, decay)
    names = {id(p): name for name, p in network.named_parameters()}
    found = {names[id(p)]: (g["lr_scale"], g.get("weight_decay")) for g in groups for p in g["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(names)
    return found


def test_a_vit_follows_beit():
    found = scales(build_backbone(VIT), 0.5)  # two blocks: 1/8 before them, 1/4 and 1/2 in them, 1 behind
    expected = {
        **dict.fromkeys(("cls_token", "pos_embed", "patch_embed.proj.bias"), (0.125, 0.0)),
        "patch_embed.proj.weight": (0.125, None),
        "blocks.0.norm1.weight": (0.25, 0.0),
        "blocks.0.attn.qkv.weight": (0.25, None),
        "blocks.1.mlp.fc2.weight": (0.5, None),
        "blocks.1.mlp.fc2.bias": (0.5, 0.0),
        "norm.weight": (1.0, 0.0),
    }
    assert {name: found[name] for name in expected} == expected


def test_a_resnet_by_its_stages():
    found = scales(build_backbone(BackboneConfig("resnet18")), 0.5)
    expected = {
        "conv1.weight": (1 / 32, None),
        "bn1.bias": (1 / 32, 0.0),
        "layer1.0.conv1.weight": (1 / 16, None),
        "layer2.0.downsample.1.weight": (1 / 8, 0.0),
        "layer3.1.bn2.weight": (1 / 4, 0.0),
        "layer4.1.conv2.weight": (1 / 2, None),
    }
    assert {name: found[name] for name in expected} == expected


def test_a_norm_is_as_deep_as_its_convolution():
    by_name, head = depths(ConvNet(width=4))
    assert head == 5
    convolutions = [depth for name, depth in by_name.items() if name.endswith("weight")][::2]
    norms = [depth for name, depth in by_name.items() if name.endswith("bias")]
    assert convolutions == norms == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("network", "head", "deepest"),
    [
        (VisionTransformer(32, 16, 3, 2, hidden_dim=8, mlp_dim=8), 4, "encoder.layers.encoder_layer_2"),
        (build_backbone(BackboneConfig("timm/convnext_atto")), 5, "stages.3"),
        (build_backbone(BackboneConfig("timm/swin_tiny_patch4_window7_224", options={"embed_dim": 24})), 5, "layers.3"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_networks_count_their_blocks_or_stages(network, head, deepest):
    by_name, last = depths(network)
    assert last == head
    assert {depth for name, depth in by_name.items() if name.startswith(deepest)} == {head - 1}
    behind = {name for name, depth in by_name.items() if depth == head}
    assert behind and all(name.startswith(("encoder.ln", "heads", "classifier", "head", "norm")) for name in behind)


def test_the_head_moves_at_the_full_rate_and_no_decay_changes_nothing():
    module = FineTune(backbone=VIT, optim=OPTIM)
    module._make_head(3)
    groups = module.optim.groups(module)
    assert decayed(groups, module.backbone, 1.0) is groups
    by_parameter = {id(p): g for g in decayed(groups, module.backbone, 0.75) for p in g["params"]}
    assert by_parameter[id(module.head.weight)]["lr_scale"] == 1.0
    assert by_parameter[id(module.head.bias)]["name"] == "biases, norms, tokens, layer 3 of 3"
    optimizer, schedule = OPTIM.build(decayed(groups, module.backbone, 0.75), 256, 10, 5)
    rates = {group["lr"] for group in optimizer.param_groups}
    assert {round(rate / 1e-3, 6) for rate in rates} == {1.0, 0.75, 0.5625, 0.421875}


def test_a_network_without_numbered_blocks_is_refused():
    with pytest.raises(UserError, match="layer_decay goes by the blocks.*DenseNet"):
        depths(build_backbone(BackboneConfig("densenet121")))
