"""BatchNorm in groups, and none at all: goldens, plain BatchNorm, and loops that cannot be wrong."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close

from datamodules.errors import UserError
from methods.backbones import ConvNet
from methods.chunking import embed_in_chunks
from methods.modules import mlp
from methods.modules.norm_layers import GroupNorm, WSConv2d
from methods.modules.norms import convert_norms, shuffled
from tests.support.norms import EXACT, learnt, norm, randomised

# --- groups of one batch


def test_split_has_the_statistics_of_the_goldens_two_ranks(golden, monkeypatch):
    g = golden("bn_variants")
    local, mixed = norm("split:2"), norm("split:2")
    assert_close(local(g["x"]).detach(), g["bn_local"], **EXACT)
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: g["idx_shuffle"])
    assert_close(shuffled(mixed, g["x"]), g["bn_shuffled"], **EXACT)
    for name in ("running_mean", "running_var"):
        both = (g[f"{name}_shuffled_r0"] + g[f"{name}_shuffled_r1"]) / 2
        assert_close(getattr(mixed, name), both, **EXACT)


def test_local_is_batchnorm_of_what_goes_through_at_once(golden):
    g = golden("bn_variants")
    joint, separate = norm("local"), norm("local")
    assert_close(joint(torch.cat([g["x"], g["x_view2"]])).detach(), g["bn_joint_views"], **EXACT)
    views = torch.cat([separate(g["x"]), separate(g["x_view2"])])
    assert_close(views.detach(), g["bn_separate_views"], **EXACT)
    assert_close(joint.running_mean, g["joint_running_mean"], **EXACT)
    assert_close(separate.running_mean, g["separate_running_mean"], **EXACT)


def test_split_of_one_is_batchnorm_to_the_bit():
    x, upstream = torch.randn(2, 9, 3, 4, 4)
    local = randomised(nn.BatchNorm2d(3))
    split = convert_norms(copy.deepcopy(local), "split:1")
    for _ in range(3):
        assert_close(learnt(split, x, upstream), learnt(local, x, upstream), rtol=0, atol=0)


@pytest.mark.parametrize("rows", [8, 11])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_split_is_a_batchnorm_for_each_group(rows, momentum):
    x, upstream = torch.randn(2, rows, 3, 2, 5, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last)
    local = randomised(nn.BatchNorm2d(3, momentum=momentum, dtype=torch.float64))
    split = convert_norms(copy.deepcopy(local), "split:4")
    answer = learnt(split, x, upstream)
    assert answer["out"].is_contiguous(memory_format=torch.channels_last)
    groups = [copy.deepcopy(local) for _ in range(4)]
    parts = [learnt(*group) for group in zip(groups, x.tensor_split(4), upstream.tensor_split(4), strict=True)]
    join = {"out": torch.cat, "grad_x": torch.cat, "grad_weight": sum, "grad_bias": sum, "num_batches_tracked": max}
    for name, value in answer.items():
        several = [part[name] for part in parts]
        expected = join[name](several) if name in join else torch.stack(several).mean(0)
        assert_close(value, expected, **EXACT)
    assert_close(split.eval()(x), nn.BatchNorm2d.forward(split, x), rtol=0, atol=0)


def test_split_without_running_statistics_or_scale():
    x = torch.randn(6, 5, dtype=torch.float64)
    split = norm("split:3", affine=False, track_running_stats=False)
    parts = [norm("local", affine=False)(part) for part in x.split(2)]
    assert_close(split(x), torch.cat(parts), **EXACT)
    assert not split.state_dict()


@pytest.mark.parametrize(("choice", "shape", "images"), [("split:4", (7, 5), 8), ("split:8", (7, 5, 3), 16)])
def test_split_refuses_groups_without_statistics(choice, shape, images):
    layer = norm(choice)
    with pytest.raises(UserError, match=f"{choice}.* batch of 7 .*--data.batch_size .*at least {images},"):
        layer(torch.randn(shape, dtype=torch.float64))
    layer(torch.randn(images, *shape[1:], dtype=torch.float64))


def test_running_statistics_stand_still_while_a_micro_batch_is_recomputed():
    split = convert_norms(nn.BatchNorm1d(5), "split:3")
    x = torch.randn(18, 5, requires_grad=True)
    z = embed_in_chunks(lambda rows: {"z": split(rows)}, list(x.split(9)), network=split)["z"]
    once = {name: buffer.clone() for name, buffer in split.named_buffers()}
    z.square().sum().backward()
    assert int(once["num_batches_tracked"]) == 2
    assert_close(dict(split.named_buffers()), once, rtol=0, atol=0)


# --- no batch statistics


def test_standardised_weights_equal_the_authors_code(golden):
    g = golden("bn_variants")
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)).double()
    conv, group_norm = convert_norms(layers, "none")
    conv.load_state_dict({"weight": g["ws_weight"], "bias": g["ws_bias"]})
    group_norm.num_groups = int(g["ws_gn_groups"])
    x = g["ws_input"].requires_grad_()
    mapped = conv(x)
    out = group_norm(mapped)
    out.backward(g["ws_upstream"])
    assert_close(mapped, g["ws_conv_out"], **EXACT)
    assert_close(out, g["ws_gn_out"], **EXACT)
    assert_close(conv.weight.grad, g["ws_grad_weight"], **EXACT)
    assert_close(x.grad, g["ws_grad_input"], **EXACT)


def test_standardised_filters_have_no_mean_one_std_and_no_scale():
    conv = WSConv2d(3, 4, 3, bias=False).double()
    basis = torch.eye(27, dtype=torch.float64).view(27, 3, 3, 3)
    filters = conv(basis)[..., 0, 0].T  # [4, 27]: the response to each single weight is that weight
    assert_close(filters.mean(1), torch.zeros(4).double(), **EXACT)
    assert_close(filters.std(1), torch.ones(4).double(), rtol=1e-3, atol=0)
    with torch.no_grad():
        conv.weight.mul_(7.0).add_(3.0)
    assert_close(conv(basis)[..., 0, 0].T, filters, rtol=1e-3, atol=0)
    nn.init.ones_(conv.weight)  # a filter without variance is zero, and its gradient finite
    conv(basis).sum().backward()
    assert conv.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("channels", "groups"), [(512, 16), (64, 16), (96, 16), (72, 12), (24, 6), (16, 4), (17, 1), (3, 1)]
)
def test_groups_divide_the_channels_and_hold_four(channels, groups):
    layer = norm("none", channels)
    assert (layer.num_groups, layer.num_channels) == (groups, channels)
    assert layer(torch.randn(6, channels, dtype=torch.float64)).std(0).min() > 0.1


def test_without_batch_statistics_no_image_sees_another():
    network = convert_norms(nn.Sequential(ConvNet(width=8), mlp(64, 32, 16, last_norm="scale")), "none")
    images = torch.randn(4, 3, 16, 16)
    assert_close(network(images)[:1], network(images[:1]), rtol=1e-4, atol=1e-5)


def test_only_convolutions_before_a_norm_are_standardised():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1),  # a gate
        nn.Sigmoid(),
        nn.Conv2d(4, 4, 1, groups=4),  # one weight a filter has no std
        nn.BatchNorm2d(4, affine=False),
    )
    convert_norms(network, "none")
    assert [type(layer) for layer in network] == [
        *(WSConv2d, nn.ReLU, GroupNorm, nn.Conv2d, nn.Sigmoid, nn.Conv2d, GroupNorm)
    ]
    assert torch.isfinite(network(torch.randn(2, 3, 8, 8))).all()
    squeezed = convert_norms(timm.create_model("seresnet18", num_classes=0), "none")
    gates = [m for m in squeezed.modules() if type(m) is nn.Conv2d]
    assert len(gates) == 16
    assert all(gate.bias is not None for gate in gates)
