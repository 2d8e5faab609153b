"""BatchNorm's statistics: goldens on one and two ranks, plain BatchNorm, and loops that cannot be wrong."""

import copy
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from datamodules.errors import UserError
from methods.backbones import ConvNet
from methods.chunking import embed_in_chunks
from methods.modules import mlp
from methods.modules.norm_layers import GroupNorm, SplitBatchNorm, SyncBatchNorm, WSConv2d
from methods.modules.norms import check_norm_choice, convert_norms, shuffled
from tests.support.ranks import on_ranks

EXACT = {"rtol": 1e-9, "atol": 1e-11}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def norm(choice: str, channels: int = 5, **options: Any) -> nn.Module:
    return convert_norms(nn.BatchNorm1d(channels, dtype=torch.float64, **options), choice)


def randomised(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def learnt(layer: nn.Module, x: Tensor, upstream: Tensor) -> dict[str, Tensor]:
    """What a training step leaves behind: output, all gradients, buffers."""
    x = x.clone().requires_grad_()
    out = layer(x)
    out.backward(upstream)
    grads = {f"grad_{name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"out": out.detach(), "grad_x": x.grad, **grads, **dict(layer.named_buffers())}


# --- statistics of all ranks


def sync_on_rank(this: int, sizes: list[int], device: str, layer: nn.Module, x: Tensor, upstream: Tensor) -> dict:
    own = slice(sum(sizes[:this]), sum(sizes[: this + 1]))
    layer = copy.deepcopy(layer).to(device)  # what was sent to the ranks lies in memory that they share
    answer = learnt(DistributedDataParallel(layer), x[own].to(device), upstream[own].to(device))
    answer = {name.replace("module.", ""): value for name, value in answer.items()}
    answer["evaluated"] = layer.eval()(x[own].to(device))
    return {name: value.detach().cpu().numpy() for name, value in answer.items()}


def synchronised(sizes: list[int], layer: nn.Module, x: Tensor, upstream: Tensor, device: str = "cpu") -> dict:
    """`learnt` of two ranks as of one process: rows joined, averaged gradients made sums, buffers seen to be equal."""
    first, second = on_ranks(2, sync_on_rank, sizes, device, layer, x, upstream)
    joined = {}
    for name, value in first.items():
        mine, other = torch.from_numpy(value), torch.from_numpy(second[name])
        if name in ("out", "grad_x", "evaluated"):
            joined[name] = torch.cat([mine, other])
        else:
            assert torch.equal(mine, other), name
            joined[name] = 2 * mine if name.startswith("grad") else mine
    return joined


ACCELERATOR = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")]
)


@pytest.mark.ddp
@pytest.mark.parametrize("device", ["cpu", ACCELERATOR])
def test_sync_has_the_full_batch_statistics_of_the_golden(golden, device):
    g = golden("bn_variants")
    layer = norm("sync")
    layer.load_state_dict({"weight": g["sync_weight"], "bias": g["sync_bias"]}, strict=False)
    answer = synchronised([4, 4], layer, g["x"], g["sync_upstream"], device)
    for name in ("out", "grad_x", "running_mean", "running_var"):
        assert_close(answer[name], g[f"sync_{name}"], **EXACT)


@pytest.mark.ddp
@pytest.mark.parametrize("momentum", [0.1, None])
def test_sync_of_ragged_ranks_is_batchnorm_of_all_rows(momentum):
    layers = (
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4, momentum=momentum),
        nn.Conv2d(4, 3, 1),
        nn.BatchNorm2d(3, affine=False),
    )
    whole = randomised(nn.Sequential(*layers)).double()
    x = 1e3 + torch.randn(7, 3, 2, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    upstream = torch.randn_like(x)
    answer = synchronised([5, 2], convert_norms(copy.deepcopy(whole), "sync"), x, upstream)
    expected = learnt(whole, x, upstream)
    expected["evaluated"] = whole.eval()(x).detach()
    assert_close(answer, expected, rtol=1e-9, atol=1e-9)


def test_sync_on_one_process_is_batchnorm():
    x, upstream = torch.randn(2, 6, 5, dtype=torch.float64)
    local, sync = randomised(norm("local")), norm("sync")
    sync.load_state_dict(local.state_dict())
    assert_close(learnt(sync, x, upstream), learnt(local, x, upstream), rtol=0, atol=0)
    assert torch.equal(sync.eval()(x), local.eval()(x))


def bf16_on_rank(this: int, x: Tensor) -> dict:
    layer = convert_norms(nn.BatchNorm2d(3), "sync")
    own = x[this::2].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(own)
    out.float().square().sum().backward()
    types = [str(t.dtype) for t in (out, own.grad, layer.weight.grad, layer.running_mean)]
    return {"types": types, "mean": layer.running_mean.numpy(), "out": out.detach().float().numpy()}


@pytest.mark.ddp
def test_sync_takes_bf16_with_statistics_in_fp32():
    x = (10 + torch.randn(64, 3, 2, 2)).bfloat16()
    first, second = on_ranks(2, bf16_on_rank, x)
    assert first["types"] == ["torch.bfloat16", "torch.bfloat16", "torch.float32", "torch.float32"]
    reference = nn.BatchNorm2d(3)
    out = reference(x)  # torch's own in the same precision
    assert_close(torch.from_numpy(first["mean"]), reference.running_mean, rtol=1e-6, atol=0)
    assert_close(torch.from_numpy(second["out"]), out[1::2].float(), rtol=0, atol=2**-7)


# --- shuffling


def shuffle_on_rank(this: int, x: Tensor, order: Tensor) -> dict:
    torch.randperm = lambda n, **_: order if this == 0 else torch.arange(n)  # rank 0's order must reach the other
    layer, seen = norm("shuffle"), []

    def network(inputs: tuple[Tensor, Tensor]) -> dict[str, list[Tensor]]:
        seen.append(inputs[0])
        return {"out": [layer(inputs[0])], "maps": [inputs[1]]}

    own = x[4 * this : 4 * this + 4].clone().requires_grad_()
    maps = torch.randn(4, 2, 3, 3).to(memory_format=torch.channels_last)
    answer = shuffled(network, (own, maps))
    assert torch.equal(answer["maps"][0], maps)  # the round trip is the identity
    assert not answer["out"][0].requires_grad
    return {"seen": seen[0].numpy(), "out": answer["out"][0].numpy()} | {
        name: getattr(layer, name).numpy() for name in ("running_mean", "running_var")
    }


@pytest.mark.ddp
def test_shuffle_equals_the_authors_code_on_two_ranks(golden):
    g = golden("bn_variants")
    answers = on_ranks(2, shuffle_on_rank, g["x"], g["idx_shuffle"])
    for this, answer in enumerate(answers):
        assert_close(torch.from_numpy(answer["seen"]), g[f"shuffled_r{this}"], rtol=0, atol=0)
        assert_close(torch.from_numpy(answer["out"]), g["bn_shuffled"][4 * this : 4 * this + 4], **EXACT)
        for name in ("running_mean", "running_var"):
            assert_close(torch.from_numpy(answer[name]), g[f"{name}_shuffled_r{this}"], **EXACT)
    assert not torch.allclose(g["bn_shuffled"], g["bn_local"], atol=0.1)  # or the test would say nothing


def test_what_treats_each_row_alone_is_not_changed_by_shuffling():
    x = torch.randn(4, 5, requires_grad=True)
    out = shuffled(lambda t: {"twice": 2 * t}, x)
    assert torch.equal(out["twice"], 2 * x.detach())
    assert not out["twice"].requires_grad


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


# --- any network

NETWORKS = {
    "torchvision": lambda: torchvision.models.resnet18(zero_init_residual=True),
    "timm": lambda: timm.create_model("resnet18d", num_classes=0),
    "timm with activations": lambda: timm.create_model("efficientnet_lite0", num_classes=0, drop_rate=0.0),
    "own": lambda: nn.Sequential(ConvNet(width=8), mlp(64, 32, 16, last_norm="scale")),
}
CHOICES = {"sync": SyncBatchNorm, "split:2": SplitBatchNorm, "none": GroupNorm}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_keep_all_but_their_statistics(network, choice):
    built = NETWORKS[network]()
    next(m for m in built.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    names = [name for name, m in built.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    flags = {name: (p, p.requires_grad) for name, p in built.named_parameters()}
    modes = {name: m.training for name, m in built.named_modules()}
    before = built.state_dict()
    for _ in range(2):
        assert convert_norms(built, choice) is built
        assert [name for name, m in built.named_modules() if type(m) is CHOICES[choice]] == names
    assert all(p is flags[name][0] and p.requires_grad == flags[name][1] for name, p in built.named_parameters())
    assert {name: m.training for name, m in built.named_modules()} == modes
    lost = {key for key in before if key.endswith(BUFFERS)} if choice == "none" else set()
    assert set(built.state_dict()) == set(before) - lost
    built.train()(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in built.parameters() if p.requires_grad)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("choice", ["sync", "split:2"])
def test_states_travel_between_choices_and_evaluate_alike(network, choice):
    local, converted = NETWORKS[network](), convert_norms(NETWORKS[network](), choice)
    images = torch.randn(4, 3, 32, 32)
    local(images)  # running statistics that differ from the first
    converted.load_state_dict(local.state_dict())
    assert_close(converted.eval()(images), local.eval()(images), rtol=0, atol=0)  # activations inside norms run too
    local.load_state_dict(convert_norms(converted, "sync").state_dict())


@pytest.mark.parametrize("choice", ["local", "shuffle"])
def test_local_and_shuffle_leave_layers_as_built(choice):
    network = nn.Sequential(SplitBatchNorm2d(4), nn.BatchNorm2d(4))
    assert [type(m) for m in convert_norms(network, choice)] == [SplitBatchNorm2d, nn.BatchNorm2d]


@pytest.mark.parametrize("choice", ["split:2", "sync"])
def test_autocast_keeps_the_type_of_the_activations(choice):
    network = convert_norms(ConvNet(width=8), choice)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.randn(4, 3, 16, 16)).dtype == torch.bfloat16
    assert {b.dtype for b in network.buffers()} == {torch.float32, torch.int64}


# --- what a user may get wrong


@pytest.mark.parametrize("choice", ["local", "sync", "shuffle", "none", "split:1", "split:16"])
def test_choices_are_known(choice):
    check_norm_choice(choice)


@pytest.mark.parametrize(
    ("choice", "near"),
    [
        ("syncbn", "sync"),
        ("Shuffled", "shuffle"),
        ("splitt:8", "split:8"),
    ],
)
def test_a_near_miss_is_named(choice, near):
    with pytest.raises(UserError, match=rf"--model.batch_norm {choice} is not .*: did you mean {near}\?"):
        convert_norms(nn.Identity(), choice)


@pytest.mark.parametrize("choice", ["split", "split:0", "split:-2"])
def test_a_split_without_groups_is_told_to_name_them(choice):
    with pytest.raises(UserError, match=f"{choice}: split takes the number of groups, at least 1, as .* split:8"):
        check_norm_choice(choice)


def test_a_far_miss_gets_the_list():
    with pytest.raises(UserError, match="xyz is not one of local, sync, shuffle, split:N .* choose one of them"):
        check_norm_choice("xyz")


def test_a_norm_with_a_mind_of_its_own_is_named_and_nothing_changes():
    network = nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(SplitBatchNorm2d(4)))
    with pytest.raises(UserError, match=r"batch_norm sync .* layer '1\.0': SplitBatchNorm2d"):
        convert_norms(network, "sync")
    assert type(network[0]) is nn.BatchNorm2d
    padded = nn.Sequential(timm.layers.Conv2dSame(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(UserError, match="layer '0': Conv2dSame"):
        convert_norms(padded, "none")
    assert type(convert_norms(padded, "sync")[1]) is SyncBatchNorm
