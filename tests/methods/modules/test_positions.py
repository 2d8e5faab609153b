"""A tiny vision transformer at two image sizes against numbers from DINO's code."""

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from methods.backbones import BackboneConfig, build_backbone
from methods.modules.positions import interpolate_as_dino, interpolate_positions
from tests.support.dino import numbers, tiny_vit

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def golden_vit() -> Any:
    network = build_backbone(tiny_vit()).double()
    network.load_state_dict(numbers("vit/param/"))
    return interpolate_as_dino(network)


def test_positions_of_a_smaller_image():
    g = numbers("vit/")
    positions = interpolate_positions(g["param/pos_embed"], (4, 4), (2, 2))
    torch.testing.assert_close(positions, g["pos_embed_local"], **CLOSE)
    assert interpolate_positions(positions, (2, 2), (2, 2)) is positions


@pytest.mark.parametrize("old", range(1, 31))
def test_every_size_comes_out_with_its_number_of_patches(old):
    positions = torch.randn(1, 1 + old * old, 2)
    for new in range(1, 31):
        assert interpolate_positions(positions, (old, old), (new, old)).shape == (1, 1 + new * old, 2)


def test_class_tokens_of_both_sizes():
    g, network = numbers("vit/"), golden_vit()
    torch.testing.assert_close(network(g["x_global"]), g["cls_global"], **CLOSE)
    torch.testing.assert_close(network(g["x_local"]), g["cls_local"], **CLOSE)
    torch.testing.assert_close(network.forward_features(g["x_global"]), g["patch_tokens_global"], **CLOSE)


def test_attention_of_the_last_block():
    g, network = numbers("vit/"), golden_vit()
    attention, seen = network.blocks[-1].attn, []
    attention.fused_attn = False  # which never holds the map
    attention.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(g["x_global"])
    torch.testing.assert_close(seen[0], g["last_attention_global"], **CLOSE)


def test_timms_own_way_differs():
    g = numbers("vit/")
    network = build_backbone(tiny_vit()).double()
    network.load_state_dict(numbers("vit/param/"))
    difference: Tensor = network(g["x_local"]).detach() - g["cls_local"]
    assert float(difference.abs().max()) > 0.03  # so the tests above can tell


@pytest.mark.parametrize("options", [{"dynamic_img_size": False}, {"reg_tokens": 2, "no_embed_class": True}])
def test_other_vits_keep_their_own_way(options):
    config = tiny_vit()
    network = build_backbone(BackboneConfig(config.name, options=config.options | options))
    assert type(interpolate_as_dino(network)) is VisionTransformer
