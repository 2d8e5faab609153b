"""MoCo v3 against numbers from the authors' code."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError
from methods.backbones import BackboneConfig
from methods.base import StepOutput
from methods.moco_v3 import MoCoV3
from methods.modules import EMAPair
from methods.modules.vit import sincos_positions
from methods.optim import OptimConfig
from tests.support.golden import load
from tests.support.methods import small
from tests.support.ranks import on_ranks
from tests.support.trajectory import TINY, replay

CLOSE = {"rtol": 1e-9, "atol": 1e-11}
heads = pytest.mark.parametrize(("heads", "prefix"), [("resnet", "rn_traj_"), ("vit", "vit_traj_")])


def contrast(g: dict[str, Tensor], rows: slice, temperature: float) -> tuple[StepOutput, Tensor, Tensor]:
    """The method's own loss on the golden features."""
    module = small(MoCoV3, temperature=temperature).double()
    assert isinstance(module, MoCoV3)
    q1, q2 = (g[name][rows].clone().requires_grad_() for name in ("q1_raw", "q2_raw"))
    k1, k2 = (g[name][rows] for name in ("k1_raw", "k2_raw"))
    unit = {name: F.normalize(x, dim=1) for name, x in {"q1": q1, "q2": q2, "k1": k1, "k2": k2}.items()}
    return module.contrast(unit | {"h1": k1, "h2": k2}), q1, q2


def test_loss_and_gradient(golden):
    g = golden("moco_v3")
    T = float(g["temperature"])
    output, q1, q2 = contrast(g, slice(None), T)
    output.loss.backward()
    torch.testing.assert_close(output.loss.detach(), g["loss"], **CLOSE)
    torch.testing.assert_close(q1.grad, g["grad_q1_raw"], **CLOSE)
    torch.testing.assert_close(q2.grad, g["grad_q2_raw"], **CLOSE)
    swapped = g | {"q2_raw": g["q1_raw"], "k1_raw": g["k2_raw"]}  # twice the first direction
    torch.testing.assert_close(contrast(swapped, slice(None), T)[0].loss.detach() / 2, g["loss_q1k2"], **CLOSE)


@pytest.mark.parametrize("temperature", [1.0, 0.2, 0.1])
def test_loss_at_other_temperatures(golden, temperature):
    g = golden("moco_v3")
    loss = contrast(g, slice(None), temperature)[0].loss.detach()
    torch.testing.assert_close(loss, g[f"loss_T{temperature}"], **CLOSE)


def on_half(rank: int) -> dict[str, np.ndarray]:
    g = load("moco_v3")
    half = len(g["q1_raw"]) // 2
    output, q1, q2 = contrast(g, slice(rank * half, (rank + 1) * half), float(g["temperature"]))
    output.loss.backward()
    assert q1.grad is not None
    assert q2.grad is not None
    return {"loss": output.loss.detach().numpy(), "q1": q1.grad.numpy(), "q2": q2.grad.numpy()}


@pytest.mark.ddp
def test_loss_and_gradient_on_two_ranks(golden):
    g = golden("moco_v3")
    for rank, answer in enumerate(on_ranks(2, on_half)):
        np.testing.assert_allclose(answer["loss"], g[f"w2_loss_r{rank}"], **CLOSE)
        np.testing.assert_allclose(answer["q1"], g[f"w2_grad_q1_raw_r{rank}"], **CLOSE)
        np.testing.assert_allclose(answer["q2"], g[f"w2_grad_q2_raw_r{rank}"], **CLOSE)


def golden_module(g: dict[str, Tensor], heads: str, prefix: str) -> MoCoV3:
    """Our class with the authors' weights and settings."""
    optim = OptimConfig(
        "lars",
        lr=float(g[prefix + "lr"]),
        weight_decay=float(g[prefix + "wd"]),
        options={"momentum": 0.9},
        lr_scaling="none",
        warmup_epochs=1,
    )
    module = MoCoV3(
        backbone=TINY,
        optim=optim,
        temperature=float(g[prefix + "temperature"]),
        hidden_dim=12,
        out_dim=8,
        teacher_momentum=float(g[prefix + "base_m"]),
        heads=heads,  # pyright: ignore[reportArgumentType]
    ).double()
    base = ours(part(g, prefix + "init_base."))
    module.load_state_dict(base, strict=False)
    module.teacher.load_state_dict(base, strict=False)
    module.predictor.load_state_dict(part(g, prefix + "init_pred."), strict=False)
    return module


def part(g: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in g.items() if name.startswith(prefix)}


def ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' names of parameters and buffers in our words."""
    return {
        ("projector." + n.partition(".")[2] if n.startswith(("fc.", "head.")) else f"backbone.{n}"): v
        for n, v in state.items()
    }


def read(module: MoCoV3) -> dict[str, Tensor]:
    return {"base": module.backbone.lin.weight, "teacher": module.teacher.backbone.lin.weight}


@heads
def test_five_steps(golden, heads, prefix):
    g = golden("moco_v3")
    module = golden_module(g, heads, prefix)
    run = replay(
        module,
        [g[prefix + "x1"], g[prefix + "x2"]],
        read,
        steps_per_epoch=2,
        total_epochs=int(g[prefix + "epochs"]),
    )
    torch.testing.assert_close(run["loss"], g[prefix + "loss_steps"], **CLOSE)
    for group in run["lr"].T:
        torch.testing.assert_close(group, g[prefix + "lr_steps"], **CLOSE)
    torch.testing.assert_close(run["base"], g[prefix + "base_lin_after"], **CLOSE)
    # The authors move the momentum encoder at the start of the next step: theirs lags by one.
    torch.testing.assert_close(run["teacher"][:-1], g[prefix + "mom_lin_after"][1:], **CLOSE)

    state = module.state_dict()
    for name, value in ours(part(g, prefix + "final_base.")).items():
        torch.testing.assert_close(state[name], value, **CLOSE, msg=name)
    for name, value in part(g, prefix + "final_pred.").items():
        torch.testing.assert_close(state[f"predictor.{name}"], value, **CLOSE, msg=name)
    pair, m = module.ema_pairs()[0], float(momentum(module.ema_pairs()[0], 4, 8))
    assert pair.before_forward
    for name, value in ours(part(g, prefix + "final_mom.")).items():
        teacher, base = state[f"teacher.{name}"], state[name]
        is_buffer = "running" in name or "tracked" in name
        before_last_move = teacher if is_buffer else (teacher - (1 - m) * base) / m  # the authors have yet to move it
        torch.testing.assert_close(before_last_move, value, rtol=1e-8, atol=1e-10, msg=name)


def momentum(pair: EMAPair, step: int, total: int) -> float:
    """What `MomentumUpdate` uses after optimiser step number `step`, counted from 0."""
    return pair.momentum_at((step + pair.before_forward) / total)


@heads
def test_momentum_schedule(golden, heads, prefix):
    g = golden("moco_v3")
    pair = golden_module(g, heads, prefix).ema_pairs()[0]
    expected = g[prefix + "m_steps"].tolist()  # of the move at the start of each step; the first moves a copy
    assert [momentum(pair, step, 8) for step in range(4)] == pytest.approx(expected[1:], rel=1e-9)
    _, epochs, _, m0 = g["sched_params"].tolist()
    pair = EMAPair(pair.student, pair.teacher, m0, 1.0)
    at = [pair.momentum_at(epoch / epochs) for epoch in g["sched_epoch"].tolist()]
    assert at == pytest.approx(g["sched_m"].tolist(), rel=1e-9)


def two_ranks(rank: int) -> dict[str, np.ndarray]:
    g, prefix = load("moco_v3"), "rn_traj_"
    module = golden_module(g, "resnet", prefix)
    inputs = [g[prefix + "x1"], g[prefix + "x2"]]
    run = replay(module, inputs, read, steps_per_epoch=2, total_epochs=4, ranks=2, rank=rank)
    return {name: value.numpy() for name, value in run.items()}


@pytest.mark.ddp
def test_five_steps_on_two_ranks(golden):
    g = golden("moco_v3")
    for rank, run in enumerate(on_ranks(2, two_ranks)):
        np.testing.assert_allclose(run["loss"], g[f"rn_w2_traj_loss_r{rank}"], **CLOSE)
        np.testing.assert_allclose(run["base"], g["rn_w2_traj_base_lin_after"], **CLOSE)
        np.testing.assert_allclose(run["teacher"][:-1], g["rn_w2_traj_mom_lin_after"][1:], **CLOSE)


def test_the_factor_keeps_the_gradients_size_about_independent_of_the_temperature():
    generator = torch.Generator().manual_seed(0)
    sizes = {}
    for T in (1.0, 0.5, 0.2, 0.1):
        g: dict[str, Any] = {
            name: torch.randn(256, 256, generator=generator) for name in ("q1_raw", "q2_raw", "k1_raw", "k2_raw")
        }
        output, q1, _ = contrast({name: x.double() for name, x in g.items()}, slice(None), T)
        (grad,) = torch.autograd.grad(output.loss, q1)
        sizes[T] = float(grad.norm())
    assert sizes[0.1] > 0.7 * sizes[1.0]  # plain cross-entropy: eight times as large at 0.1
    assert sizes[0.5] == pytest.approx(sizes[1.0], rel=0.1)


# ------------------------------------------------------------------------------------------------- vision transformers


def vit(**arguments: Any) -> MoCoV3:
    options = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 4}
    module = small(MoCoV3, backbone=BackboneConfig("timm/vit_tiny_patch16_224", options=options), **arguments)
    assert isinstance(module, MoCoV3)
    return module


def test_position_embedding(golden):
    g = golden("moco_v3")
    height, width = g["posembed_grid"].tolist()
    positions = sincos_positions(height, width, g["posembed"].shape[-1])
    torch.testing.assert_close(positions, g["posembed"][0, 1:].float(), rtol=1e-5, atol=1e-6)
    assert not g["posembed"][0, 0].any()  # of the class token


def test_a_vit_keeps_its_positions_and_patch_embedding():
    module = vit()
    network: Any = module.backbone
    assert not network.pos_embed.requires_grad
    assert not network.patch_embed.proj.weight.requires_grad
    assert not network.pos_embed[0, 0].any()
    torch.testing.assert_close(network.pos_embed[0, 1:], sincos_positions(4, 4, 16))
    assert network.norm.eps == 1e-6
    assert vit(freeze_patch_embedding=False).backbone.patch_embed.proj.weight.requires_grad  # pyright: ignore
    assert len([layer for layer in module.projector if isinstance(layer, torch.nn.Linear)]) == 3
    images = torch.randn(4, 3, 16, 16)
    assert module(images).shape == (4, 16)


def test_a_vit_starts_with_xaviers_weights():
    block: Any = vit().backbone.blocks[0]  # pyright: ignore
    bound = (6 / (16 + 16)) ** 0.5  # query, key and value are three maps
    assert block.attn.qkv.weight.abs().max() <= bound
    assert block.attn.qkv.weight.abs().max() > 0.95 * bound
    assert not block.attn.qkv.bias.any()


def test_other_vits_are_refused():
    with pytest.raises(UserError, match="class token"):
        options = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 4, "class_token": False}
        small(MoCoV3, backbone=BackboneConfig("timm/vit_tiny_patch16_224", options=options | {"global_pool": "avg"}))
