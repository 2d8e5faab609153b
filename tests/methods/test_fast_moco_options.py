"""What Fast-MoCo's parts and options promise."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.errors import UserError
from methods.backbones import BackboneConfig, before_pooling, build_backbone
from methods.fast_moco import FastMoCo
from methods.modules.patches import divide
from tests.support.methods import small, to_double, views, without_norm


def test_six_pairs_of_four_cells():
    module, batch = small(FastMoCo), views(FastMoCo)
    e = module.embed(batch)
    assert e["q1"].shape == (8, math.comb(4, 2), 8)
    assert e["k1"].shape == (8, 8)
    one = small(FastMoCo, cells_per_query=4)
    features = torch.randn(8, 4, one.feature_dim)
    whole = F.normalize(one.predictor(one.projector(features.mean(1))), dim=1)
    torch.testing.assert_close(one.query(features)[:, 0], whole)
    alike = features[:, :1].expand(-1, 4, -1)
    assert torch.allclose(module.query(alike), module.query(alike)[:, :1], atol=1e-6)


def test_gradient_reaches_all_cells_and_no_teacher():
    module, batch = small(FastMoCo), views(FastMoCo)
    images = [view.requires_grad_() for view in batch.global_views]
    module.step(batch).loss.backward()
    for image in images:
        assert image.grad is not None
        assert divide(image.grad, 2).abs().amax((2, 3, 4)).gt(0).all()
    assert all(p.grad is None for p in module.teacher.parameters())


def exact(**arguments: Any) -> Any:
    """A small module in float64 whose images do not see each other."""
    return without_norm(small(FastMoCo, **arguments)).double()


def test_exchanged_cells_give_the_same_loss():
    module = exact()
    batch = to_double(views(FastMoCo))
    x1, x2 = batch.global_views
    h1, h2 = module.encode(x1), module.encode(x2)
    k1, k2 = F.normalize(module.teacher(x1), dim=1), F.normalize(module.teacher(x2), dim=1)

    def loss(order: list[int]) -> Tensor:
        q1, q2 = module.query(h1[:, order]), module.query(h2[:, order])
        return module.contrast({"h1": h1, "h2": h2, "q1": q1, "q2": q2, "k1": k1, "k2": k2}).loss

    torch.testing.assert_close(loss([2, 0, 3, 1]), loss([0, 1, 2, 3]), rtol=1e-12, atol=0)


def test_target_of_the_same_view():
    batch = views(FastMoCo)
    other, same = small(FastMoCo), small(FastMoCo, target="same_view")
    e = other.embed(batch)
    swapped = e | {"k1": e["k2"], "k2": e["k1"]}
    assert torch.equal(same.contrast(e).loss, other.contrast(swapped).loss)
    assert not torch.equal(same.contrast(e).loss, other.contrast(e).loss)


@pytest.mark.parametrize(
    "name", ["convnet", "resnet18", pytest.param("timm/resnet10t", marks=pytest.mark.slow)], ids=str
)
def test_the_map_before_the_pooling(name):
    network = build_backbone(BackboneConfig(name, options={"width": 4} if name == "convnet" else {})).eval()
    x = torch.randn(2, 3, 32, 32)
    feature_map = before_pooling(network)(x)
    assert feature_map.shape[:2] == (2, network.feature_dim)
    torch.testing.assert_close(feature_map.mean((2, 3)), network(x))


def test_montage_of_one_image_alone_is_that_image():
    module = exact(encoding="montage")
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)  # its cells meet no other's
    expected = divide(before_pooling(module.backbone)(x), 2).mean((3, 4))
    torch.testing.assert_close(module.encode(x), expected, rtol=1e-12, atol=1e-14)


def test_montage_gives_each_image_its_own_cells_back():
    mounted, alone = exact(encoding="montage"), exact()
    for module in (mounted, alone):
        for layer in module.backbone.layers:
            if isinstance(layer, nn.Conv2d):  # only the middle of each filter, so that nothing crosses a seam
                layer.weight.data *= F.pad(torch.ones(1, 1), (1, 1, 1, 1))
    x = torch.randn(6, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(mounted.encode(x), alone.encode(x), rtol=1e-12, atol=1e-14)


def test_montage_trains():
    module = small(FastMoCo, encoding="montage")
    module.step(views(FastMoCo)).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters() if p.requires_grad)


def test_start_of_the_heads():
    module = FastMoCo(hidden_dim=256, out_dim=256, predictor_hidden_dim=256)
    for layer in [*module.projector, *module.predictor]:
        if isinstance(layer, nn.BatchNorm1d):
            assert 0 <= layer.weight.min() < 0.1 and 0.9 < layer.weight.max() <= 1
            assert torch.equal(layer.bias, torch.zeros(256))
    assert all(layer.bias is not None for layer in module.modules() if isinstance(layer, nn.Linear))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"cells_per_query": 5}, "cells_per_query=5 from 1 to its square"),
        ({"cells_per_side": 0}, "cells_per_side=0 must be at least 1"),
        ({"gamma": 0.7, "combine_by": "max"}, "gamma=0.7 is a weight"),
        ({"gamma": 0.7, "cells_per_query": 3}, "gamma=0.7 is a weight"),
        ({"encoding": "montage", "micro_batch_size": 4}, "set one of the two"),
        ({"encoding": "montage", "backbone": BackboneConfig("densenet121")}, "DenseNet does not show the feature map"),
        ({"backbone": BackboneConfig("vit_b_16")}, "VisionTransformer takes images of one size only"),
        ({"backbone": BackboneConfig("timm/vit_tiny_patch16_224")}, "takes images of one size only"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_refusals(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        small(FastMoCo, **arguments)


def test_cells_that_a_network_cannot_take():
    module = small(FastMoCo, cells_per_side=8)
    with pytest.raises(UserError, match="ConvNet takes no cells of 2 x 2 pixels: set a smaller --model.cells_per_side"):
        module.encode(views(FastMoCo).global_views[0])
    module.backbone = nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):  # nothing to do with the cells' size
        module.encode(views(FastMoCo).global_views[0])


def test_a_vit_that_takes_any_size():
    options = {"dynamic_img_size": True, "img_size": 16, "patch_size": 4, "depth": 1, "embed_dim": 32, "num_heads": 2}
    module = small(FastMoCo, backbone=BackboneConfig("timm/vit_tiny_patch16_224", options=options))
    assert module.step(views(FastMoCo)).loss.isfinite()
