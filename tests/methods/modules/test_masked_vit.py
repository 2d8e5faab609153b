"""A ViT that sees some patches only."""

from typing import Any

import pytest
import torch

from datamodules.errors import UserError
from methods.backbones import BackboneConfig, build_backbone
from methods.modules.masked_vit import encode_visible, prepare_masked_vit
from methods.modules.vit import fixed_positions, sincos_positions
from tests.support.methods import VIT

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def vit(**options: Any) -> Any:
    return build_backbone(BackboneConfig(VIT.name, options=VIT.options | options))


def prepared(**options: Any) -> Any:
    network = vit(**options)
    prepare_masked_vit(network, pretrained=False)
    return network


@pytest.mark.parametrize("table", ["pos0", "pos1", "pos2"])
def test_positions(golden, double, table):
    g = golden("mae")
    dim, side, with_class = g[f"hp_{table}"].tolist()
    torch.testing.assert_close(
        fixed_positions((side, side), dim, with_class, along_rows=True)[0].detach(), g[f"out_{table}"], **CLOSE
    )


def test_positions_say_column_then_row():
    table = sincos_positions(2, 3, 8, along_rows=True)
    for row in range(2):
        for column in range(3):
            angles = [[p, p / 100] for p in (column, row)]
            expected = torch.tensor(
                [f(a) for axis in angles for f in (torch.sin, torch.cos) for a in torch.tensor(axis)]
            )
            torch.testing.assert_close(table[3 * row + column], expected)


OPTIONS = [
    {},
    {"global_pool": "avg", "fc_norm": False},
    {"global_pool": "avg", "fc_norm": False, "class_token": False},
    {"reg_tokens": 2},
    {"no_embed_class": True, "pre_norm": True},
    {"img_size": (16, 24), "patch_size": (4, 8)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_all_patches_visible_is_the_plain_vit(options):
    network = prepared(**options).eval()
    side = options.get("img_size", (16, 16))
    images = torch.randn(3, 3, *side)
    L = network.patch_embed.num_patches
    tokens = encode_visible(network, images, torch.arange(L).expand(3, L))
    torch.testing.assert_close(tokens, network.forward_features(images))
    torch.testing.assert_close(network.forward_head(tokens), network(images))


def test_hidden_pixels_change_nothing():
    network = prepared()
    images = torch.randn(2, 3, 16, 16)
    kept = torch.tensor([[0, 5], [3, 2]])
    expected = encode_visible(network, images, kept)
    assert expected.shape == (2, 1 + 2, 16)
    changed = torch.randn_like(images)
    for image, patches in enumerate(kept.tolist()):
        for patch in patches:
            rows, columns = (slice(4 * i, 4 * i + 4) for i in divmod(patch, 4))
            changed[image, :, rows, columns] = images[image, :, rows, columns]
    torch.testing.assert_close(encode_visible(network, changed, kept), expected)


def test_the_authors_start():
    network = prepared()
    assert not network.pos_embed.requires_grad
    assert not network.pos_embed[0, 0].any()
    qkv = network.blocks[0].attn.qkv  # Xavier's bound of all three maps together
    assert 0.95 < qkv.weight.abs().max() / (6 / (16 + 48)) ** 0.5 <= 1
    assert not qkv.bias.any()
    assert 0.95 < network.patch_embed.proj.weight.abs().max() / (6 / (3 * 4 * 4 + 16)) ** 0.5 <= 1
    assert 0.01 < network.cls_token.std() < 0.03
    assert network.norm.eps == 1e-6


def test_trained_weights_stay():
    network = vit()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prepare_masked_vit(network, pretrained=True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.pos_embed.requires_grad


@pytest.mark.parametrize("options", [{"global_pool": "avg"}, {"global_pool": "map"}], ids=str)
def test_weights_behind_the_tokens_are_refused(options):
    with pytest.raises(UserError, match="fc_norm: false"):
        prepared(**options)


def test_other_networks_are_refused():
    hybrid = build_backbone(BackboneConfig("timm/vit_tiny_r_s16_p8_224"))
    for network in (build_backbone(BackboneConfig("convnet")), vit(pos_embed="none"), hybrid):
        with pytest.raises(UserError, match="vit_base_patch16_224"):
            prepare_masked_vit(network, pretrained=False)
