"""MoCo v1 and v2 against numbers from the authors' code."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.losses import queue_nce
from methods.moco import MoCo
from methods.modules import FeatureQueue
from methods.optim import OptimConfig
from tests.support.golden import load
from tests.support.methods import small, views, without_norm
from tests.support.ranks import on_ranks
from tests.support.trajectory import TINY, replay

VERSIONS = ["moco_v1", "moco_v2"]
both = pytest.mark.parametrize("version", VERSIONS)


def step_on_rows(g: dict[str, Tensor], rows: slice) -> tuple[Tensor, Tensor, FeatureQueue]:
    """Loss, gradient and filled queue of one step on some rows of the golden batch."""
    q_raw = g["q_raw"][rows].clone().requires_grad_()
    q, k = F.normalize(q_raw, dim=1), F.normalize(g["k_raw"][rows], dim=1)
    queue = FeatureQueue(g["queue"].shape[1], g["queue"].shape[0]).double()
    queue.keys.copy_(g["queue"].T)
    queue.seen = int(g["ptr_before"])
    loss = queue_nce(q, k, queue.keys, float(g["temperature"]))
    loss.backward()
    queue.push(F.normalize(g["k_raw"], dim=1))
    assert q_raw.grad is not None
    return loss.detach(), q_raw.grad, queue


@both
def test_loss_gradient_and_queue(golden, version):
    g = golden(version)
    assert torch.all(g["labels"] == 0)  # the positive is column 0 of the logits
    loss, grad, queue = step_on_rows(g, slice(None))
    torch.testing.assert_close(F.cross_entropy(g["logits"], g["labels"]), loss, rtol=1e-9, atol=0)
    torch.testing.assert_close(loss, g["loss"], rtol=1e-9, atol=0)
    torch.testing.assert_close(grad, g["grad_q_raw"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(queue.keys.T, g["queue_after"], rtol=1e-9, atol=1e-12)
    assert queue.pointer == g["ptr_after"]


@both
@pytest.mark.parametrize("rank", [0, 1])
def test_a_ranks_own_part(golden, version, rank):
    g = golden(version)
    half = len(g["q_raw"]) // 2
    loss, grad, queue = step_on_rows(g, slice(rank * half, (rank + 1) * half))
    torch.testing.assert_close(loss, g[f"w2_loss_r{rank}"], rtol=1e-9, atol=0)
    torch.testing.assert_close(grad, g[f"w2_grad_q_raw_r{rank}"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(queue.keys.T, g["w2_queue_after"], rtol=1e-9, atol=1e-12)
    assert queue.pointer == g["w2_ptr_after"]


def golden_module(g: dict[str, Tensor], version: str, **arguments: Any) -> MoCo:
    """Our class with the authors' weights and settings."""
    optim = OptimConfig(
        "sgd",
        lr=float(g["traj_lr"]),
        weight_decay=float(g["traj_wd"]),
        options={"momentum": 0.9},
        lr_scaling="none",
        warmup_epochs=0,
        final_lr_ratio=1.0,
        decay_biases=True,
    )
    dim, K = g["traj_queue0"].shape
    module = MoCo(
        backbone=TINY,
        optim=optim,
        temperature=float(g["traj_temperature"]),
        mlp_head=version == "moco_v2",
        hidden_dim=10,
        out_dim=dim,
        queue_size=K,
        teacher_momentum=float(g["traj_m"]),
        **arguments,
    ).double()
    initial = ours({name.removeprefix("traj_init."): v for name, v in g.items() if name.startswith("traj_init.")})
    module.load_state_dict(initial, strict=False)
    module.teacher.load_state_dict(initial, strict=False)
    module.queue.keys.copy_(g["traj_queue0"].T)
    return module


def ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' names of parameters and buffers in our words."""
    names = {name: name.replace("fc.weight", "fc.0.weight").replace("fc.bias", "fc.0.bias") for name in state}
    return {
        ("projector" + names[name].removeprefix("fc") if name.startswith("fc") else f"backbone.{name}"): value
        for name, value in state.items()
    }


def read(module: MoCo) -> dict[str, Tensor]:
    return {
        "queue": module.queue.keys.T,
        "pointer": torch.tensor(module.queue.pointer),
        "query": module.backbone.lin.weight,
        "key": module.teacher.backbone.lin.weight,
    }


@both
def test_five_steps(golden, version):
    g = golden(version)
    module = golden_module(g, version)
    run = replay(module, [g["traj_xq"], g["traj_xk"]], read)
    close = {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(run["loss"], g["traj_loss"], **close)
    torch.testing.assert_close(run["queue"], g["traj_queue_after"], **close)
    torch.testing.assert_close(run["pointer"], g["traj_ptr_after"])
    torch.testing.assert_close(run["query"], g["traj_q_lin_after"], **close)
    # The authors move the key encoder at the start of the next step: theirs lags by one.
    torch.testing.assert_close(run["key"][:-1], g["traj_k_lin_after"][1:], **close)
    torch.testing.assert_close(g["traj_init.lin.weight"], g["traj_k_lin_after"][0], **close)

    state = module.state_dict()
    final = {n.removeprefix("traj_final_q."): v for n, v in g.items() if n.startswith("traj_final_q.")}
    for name, value in ours(final).items():
        torch.testing.assert_close(state[name], value, **close, msg=name)
    final = {n.removeprefix("traj_final_k."): v for n, v in g.items() if n.startswith("traj_final_k.")}
    m = module.teacher_momentum
    for name, value in ours(final).items():
        key, query = state[f"teacher.{name}"], state[name]
        is_buffer = "running" in name or "tracked" in name
        before_last_move = key if is_buffer else (key - (1 - m) * query) / m  # the authors have yet to move it
        torch.testing.assert_close(before_last_move, value, rtol=1e-9, atol=1e-9, msg=name)


def two_ranks(rank: int, version: str) -> dict[str, np.ndarray]:
    g = load(version)
    order = iter(g["w2_traj_idx_shuffle"])
    torch.randperm = lambda *_, **__: next(order).clone()  # what the authors' rank 0 drew
    module = golden_module(g, version, batch_norm="shuffle")
    run = replay(module, [g["traj_xq"], g["traj_xk"]], read, ranks=2, rank=rank)
    return {name: value.numpy() for name, value in (run | module.state_dict()).items()}


@pytest.mark.ddp
@both
def test_five_steps_with_shuffling_on_two_ranks(golden, version):
    g = golden(version)
    for rank, run in enumerate(on_ranks(2, two_ranks, version)):
        close = {"rtol": 1e-9, "atol": 1e-11}
        np.testing.assert_allclose(run["loss"], g[f"w2_traj_loss_r{rank}"], **close)
        np.testing.assert_allclose(run["queue"], g["w2_traj_queue_after"], **close)
        np.testing.assert_array_equal(run["pointer"], g["w2_traj_ptr_after"])
        final = {n.removeprefix("w2_traj_final_q."): v for n, v in g.items() if n.startswith("w2_traj_final_q.")}
        for name, value in ours(final).items():
            np.testing.assert_allclose(run[name], value, **close, err_msg=name)
        final = {n.removeprefix("w2_traj_final_k."): v for n, v in g.items() if n.startswith("w2_traj_final_k.")}
        m = float(g["traj_m"])
        for name, value in ours(final).items():
            before_last_move = (run[f"teacher.{name}"] - (1 - m) * run[name]) / m
            np.testing.assert_allclose(before_last_move, value, rtol=1e-9, atol=1e-9, err_msg=name)


@both
def test_no_array_of_the_golden_file_is_forgotten(golden, version):
    schedule = {"sched_params", "sched_epoch", "sched_lr"}  # tests/methods/test_optim.py
    step = {"q_raw", "k_raw", "queue", "temperature", "ptr_before", "loss", "logits", "labels", "grad_q_raw"}
    after = {"queue_after", "ptr_after"}
    rest = set(golden(version)) - schedule - step - after
    assert all(name.startswith(("traj_", "w2_")) for name in rest)


@pytest.mark.parametrize("B", [1, 5, 8, 24, 31])
def test_the_queue_wraps_with_any_batch_size(B):
    queue, reference = FeatureQueue(24, 4), []
    generator = torch.Generator().manual_seed(B)
    for _ in range(9):
        keys = torch.randn(B, 4, generator=generator)
        queue.push(keys)
        reference += list(keys)
    kept = torch.stack(reference[-24:])
    assert queue.pointer == len(reference) % 24
    newest_last = torch.roll(queue.keys, -queue.pointer, dims=0)
    assert torch.equal(newest_last[-len(kept) :], kept)
    assert queue.seen == 9 * B


def test_the_loss_rises_until_the_queue_is_full_and_then_falls():
    """Random vectors are easy to tell from a key; the keys of other images are not (loss first up, then down)."""
    torch.manual_seed(0)
    module = without_norm(small(MoCo, queue_size=256, out_dim=16))
    assert isinstance(module, MoCo)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    losses = []
    for step in range(100):
        output = module.step(views(MoCo, 32, seed=step))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        for teacher, student in zip(*module.ema_pairs()[0].parameters(), strict=True):
            teacher.data.lerp_(student.data, 0.01)
        module.queue.push(output.enqueue["queue"])
        losses.append(float(output.loss.detach()))
    full = 256 // 32
    assert losses[full] > losses[0] + 0.5
    assert np.mean(losses[-5:]) < losses[full] - 0.1
    assert losses[full] == pytest.approx(math.log(257), abs=0.3)


def test_v1_has_one_linear_map_and_v2_a_head_without_norm():
    v1, v2 = (small(MoCo, mlp_head=mlp_head, hidden_dim=32, out_dim=8) for mlp_head in (False, True))
    D = v1.feature_dim
    assert sum(p.numel() for p in v1.projector.parameters()) == D * 8 + 8
    assert sum(p.numel() for p in v2.projector.parameters()) == D * 32 + 32 + 32 * 8 + 8
    assert not any("Norm" in type(layer).__name__ for layer in v2.projector)
