"""LARS against the four codes that define it."""

import copy

import pytest
import torch

from methods.lars import LARS

NAMES = ("weight", "bias", "bn_weight", "zero_weight")


def descend(
    golden: dict[str, torch.Tensor], groups: list[list[str]], adapt: list[bool], **options
) -> dict[str, torch.Tensor]:
    """Feeds the golden gradients to an optimiser whose rate changes every step; groups that do not adapt do not decay
    either."""
    decay, momentum, trust = golden["wd_mom_eta"].tolist()
    params = {name: golden[f"p0.{name}"].clone().requires_grad_() for name in NAMES}
    torch_groups = [
        {"params": [params[name] for name in names], "adapt": a} | ({} if a else {"weight_decay": 0.0})
        for names, a in zip(groups, adapt, strict=True)
    ]
    optimizer = LARS(torch_groups, lr=1.0, momentum=momentum, weight_decay=decay, trust_coefficient=trust, **options)
    for step, lr in enumerate(golden["lr"].tolist()):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, parameter in params.items():
            parameter.grad = golden[f"grad.{name}"][step].clone()
        optimizer.step()
    return params


SPLIT = ([["weight", "zero_weight"], ["bias", "bn_weight"]], [True, False])
WHOLE = ([list(NAMES)], [True])


@pytest.mark.parametrize(
    ("code", "groups", "options"),
    [
        ("barlow", SPLIT, {}),
        ("mocov3", SPLIT, {}),
        ("barlow_nofilter", WHOLE, {}),
        ("larc", WHOLE, {"trust_denominator": "sum"}),
    ],
)
def test_equals_the_torch_codes(golden, code, groups, options):
    g = golden("lars_torch")
    for name, parameter in descend(g, *groups, **options).items():
        torch.testing.assert_close(parameter.detach(), g[f"{code}.{name}"], rtol=1e-9, atol=1e-12)


def test_equals_simclrs_tensorflow_code(golden):
    g = golden("simclr")
    names = ("conv.kernel", "zero.kernel", "conv.bias", "batch_normalization.gamma")
    decay, momentum = g["lars_wd_mom"].tolist()
    params = {
        name: g[f"lars_p0.{name}"].clone().requires_grad_()
        if f"lars_p0.{name}" in g
        else torch.zeros(3, 2, requires_grad=True)
        for name in names
    }
    groups = [
        {"params": [params["conv.kernel"], params["zero.kernel"]]},
        {"params": [params["conv.bias"], params["batch_normalization.gamma"]], "adapt": False, "weight_decay": 0.0},
    ]
    optimizer = LARS(groups, lr=1.0, momentum=momentum, weight_decay=decay, lr_in_buffer=True)
    for step, lr in enumerate(g["lars_lr"].tolist()):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, parameter in params.items():
            parameter.grad = g[f"lars_grad.{name}"][step].clone()
        optimizer.step()
    for name, parameter in params.items():
        torch.testing.assert_close(parameter.detach(), g[f"lars_classic.{name}"], rtol=1e-5, atol=1e-6)


def test_impossible_settings_are_named():
    with pytest.raises(ValueError, match="momentum < 1"):
        LARS([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=1.0)


@pytest.mark.parametrize("lr", [0.0, 0.3, 1e-5])
def test_clipping_moves_by_the_smaller_of_ratio_and_rate(lr):
    p = torch.nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
    p.grad = torch.randn(3, 4, dtype=torch.float64)
    ratio = 0.02 * float(p.detach().norm() / p.grad.norm())
    expected = p.detach() - min(ratio, lr) * p.grad
    LARS([p], lr=lr, momentum=0.0, trust_coefficient=0.02, clip=True).step()
    torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-15)


def test_a_copy_steps_like_the_original():
    weight = torch.nn.Parameter(torch.randn(4, 3))
    optimizer = LARS([weight], lr=0.1, trust_denominator="sum", clip=True)
    twin, copied = copy.deepcopy((weight, optimizer))
    for parameter, its_optimizer in ((weight, optimizer), (twin, copied)):
        parameter.grad = torch.ones(4, 3)
        its_optimizer.step()
    torch.testing.assert_close(twin, weight, rtol=0, atol=0)
