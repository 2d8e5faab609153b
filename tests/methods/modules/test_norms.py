"""Any network with another choice of BatchNorm: what changes, what stays, and which choices are understood."""

import pytest
import timm
import torch
import torchvision
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import nn
from torch.testing import assert_close

from datamodules.errors import UserError
from methods.backbones import ConvNet
from methods.modules import mlp
from methods.modules.norm_layers import GroupNorm, SplitBatchNorm, SyncBatchNorm
from methods.modules.norms import check_norm_choice, convert_norms

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
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
