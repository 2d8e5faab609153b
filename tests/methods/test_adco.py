"""AdCo's step against numbers from the authors' code."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError
from methods.adco import AdCo
from methods.optim import OptimConfig
from tests.support.golden import load
from tests.support.methods import small, views
from tests.support.ranks import on_ranks
from tests.support.trajectory import TINY

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def golden_module(g: dict[str, Tensor], symmetric: bool = False) -> tuple[AdCo, torch.optim.Optimizer]:
    """Our class with the authors' settings and negatives, and its optimiser with their momentum buffer."""
    dim, K = g["W"].shape
    optim = OptimConfig(
        "sgd",
        lr=float(g["sched_params"][0]),
        weight_decay=1e-4,
        options={"momentum": float(g["hp_mom"])},
        lr_scaling="none",
        warmup_epochs=0,
        final_lr_ratio=float(g["sched_params"][1] / g["sched_params"][0]),
        lr_interval="epoch",
    )
    module = AdCo(
        backbone=TINY,
        optim=optim,
        temperature=float(g["hp_t"]),
        adversary_temperature=float(g["hp_mt"]),
        adversary_lr=float(g["hp_mlr"]),
        adversary_weight_decay=float(g["hp_mwd"]),
        num_negatives=K,
        symmetric=symmetric,
        hidden_dim=10,
        out_dim=dim,
    ).double()
    module.negatives.push(g["W"].T)
    epochs = int(g["sched_params"][2])
    optimizer, _ = optim.build(module.param_groups(), 256, total_steps=2 * epochs, steps_per_epoch=2)
    optimizer.state[module.negatives.weight]["momentum_buffer"] = g["v"].T.clone()
    return module, optimizer


def embeddings(queries: list[Tensor], keys: list[Tensor]) -> dict[str, Tensor]:
    """Raw outputs of the networks [B, d], as `embed` hands them on."""
    q, k = (torch.stack([F.normalize(x, dim=1) for x in raw], dim=1) for raw in (queries, keys))
    return {"h1": queries[0], "q": q, "k": k}


def play(g: dict[str, Tensor], queries: list[Tensor], keys: list[Tensor], symmetric: bool = False) -> dict[str, Tensor]:
    """One step on given outputs of the networks: loss, gradients by query, negatives and their momentum."""
    module, optimizer = golden_module(g, symmetric)
    queries = [q.clone().requires_grad_() for q in queries]
    output = module.contrast(embeddings(queries, keys))
    output.loss.backward()
    W = module.negatives.weight
    if dist.is_initialized():  # as DDP does
        dist.all_reduce(W.grad)
        W.grad = W.grad / dist.get_world_size()
    optimizer.step()
    return {
        "loss": output.loss.detach(),
        "grads": torch.stack([q.grad for q in queries if q.grad is not None]),
        "W": W.detach().T,
        "v": optimizer.state[W]["momentum_buffer"].T,
        "mem_prob": output.logs["adversary_key_probability"],
    }


def test_a_step(golden):
    g = golden("adco")
    step = play(g, [g["q_raw"]], [g["k_raw"]])
    torch.testing.assert_close(step["loss"], g["loss"], **CLOSE)
    torch.testing.assert_close(step["grads"][0], g["grad_q_raw"], **CLOSE)
    torch.testing.assert_close(step["W"], g["W_after"], **CLOSE)
    torch.testing.assert_close(step["v"], g["v_after"], **CLOSE)
    torch.testing.assert_close(step["mem_prob"], g["mem_prob"], **CLOSE)


def test_four_steps_against_an_encoder_that_rests(golden):
    g = golden("adco")
    module, optimizer = golden_module(g)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = module.contrast(embeddings([g["q_raw"]], [g["k_raw"]])).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    W = module.negatives.weight
    torch.testing.assert_close(torch.stack(losses), g["adv4_loss"], **CLOSE)
    torch.testing.assert_close(W.detach().T, g["adv4_W"], **CLOSE)
    torch.testing.assert_close(optimizer.state[W]["momentum_buffer"].T, g["adv4_v"], **CLOSE)


def test_both_directions(golden):
    g = golden("adco")
    step = play(g, [g["q_raw"], g["k_raw"]], [g["sym_tk_raw"], g["sym_tq_raw"]], symmetric=True)
    torch.testing.assert_close(step["loss"], g["sym_loss"], **CLOSE)
    torch.testing.assert_close(step["grads"], torch.stack([g["sym_grad_q_raw"], g["sym_grad_k_raw"]]), **CLOSE)
    torch.testing.assert_close(step["W"], g["sym_W_after"], **CLOSE)
    torch.testing.assert_close(step["v"], g["sym_v_after"], **CLOSE)


def test_several_crops(golden):
    g = golden("adco")
    step = play(g, list(g["multi_q_raw"]), [g["k_raw"]])
    torch.testing.assert_close(step["grads"], g["multi_grad_q_raw"], **CLOSE)
    torch.testing.assert_close(step["W"], g["multi_W_after"], **CLOSE)
    torch.testing.assert_close(step["v"], g["multi_v_after"], **CLOSE)
    alone = [play(g, [q], [g["k_raw"]])["loss"] for q in g["multi_q_raw"]]
    torch.testing.assert_close(alone[0], g["multi_loss_crop0"], **CLOSE)  # what the authors log
    torch.testing.assert_close(step["loss"], torch.stack(alone).sum(), **CLOSE)


def half_of_the_batch(rank: int) -> dict[str, np.ndarray]:
    g = load("adco")
    half = len(g["q_raw"]) // 2
    rows = slice(rank * half, (rank + 1) * half)
    return {name: value.numpy() for name, value in play(g, [g["q_raw"][rows]], [g["k_raw"][rows]]).items()}


@pytest.mark.ddp
def test_two_ranks(golden):
    g = golden("adco")
    for rank, step in enumerate(on_ranks(2, half_of_the_batch)):
        np.testing.assert_allclose(step["loss"], g[f"w2_loss_r{rank}"], **CLOSE)
        np.testing.assert_allclose(step["grads"][0], g[f"w2_grad_q_raw_r{rank}"], **CLOSE)
        np.testing.assert_allclose(step["W"], g["w2_W_after"], **CLOSE)
        np.testing.assert_allclose(step["v"], g["w2_v_after"], **CLOSE)


def test_the_encoders_rate_falls_by_epoch_and_the_negatives_stays(golden):
    g = golden("adco")
    module, _ = golden_module(g)
    epochs = int(g["sched_params"][2])
    _, schedule = module.optim.build(module.param_groups(), 256, total_steps=2 * epochs, steps_per_epoch=2)
    encoder, negatives = schedule.lr_lambdas[0], schedule.lr_lambdas[-1]
    assert schedule.optimizer.param_groups[-1]["initial_lr"] == g["hp_mlr"]
    for epoch, lr in zip(g["sched_epoch"].tolist(), g["sched_lr"], strict=True):
        for step in (2 * epoch, 2 * epoch + 1):
            assert float(g["sched_params"][0]) * encoder(step) == pytest.approx(float(lr), rel=1e-9)
            assert negatives(step) == 1


def test_no_array_of_the_golden_file_is_forgotten(golden):
    step = {"q_raw", "k_raw", "W", "v", "loss", "grad_q_raw", "W_after", "v_after", "mem_prob"}
    rest = set(golden("adco")) - step
    assert all(name.startswith(("hp_", "adv4_", "w2_", "sym_", "multi_", "sched_")) for name in rest)


def test_a_negative_is_pulled_towards_the_queries_that_it_troubles(golden):
    g = golden("adco")
    q, k = F.normalize(g["q_raw"], dim=1), F.normalize(g["k_raw"], dim=1)
    module, _ = golden_module(g)
    W, T = module.negatives.weight, module.adversary_temperature
    module.contrast(embeddings([q], [k])).loss.backward()
    w, length = module.negatives().detach(), W.detach().norm(dim=1, keepdim=True)
    p = (torch.cat([q @ k.T, q @ w.T], dim=1) / T).softmax(1)[:, len(k) :]  # [B, K]
    pull = p.T @ q / len(q)  # [K, d], the paper's weighted mean of queries
    along_the_sphere = pull - (pull * w).sum(1, keepdim=True) * w
    expected = along_the_sphere / (length * T) - module.adversary_weight_decay * W.detach()
    torch.testing.assert_close(W.grad, expected, **CLOSE)


def test_needs_sgd():
    with pytest.raises(UserError, match="optimizer is 'lars'.* set --model.optim.optimizer sgd"):
        small(AdCo, optim=OptimConfig("lars"))


def test_what_cannot_be_is_refused_in_a_sentence():
    with pytest.raises(UserError, match="adversary_temperature=0 must be above 0"):
        small(AdCo, adversary_temperature=0)
    with pytest.raises(UserError, match="adversary_lr=-1"):
        small(AdCo, adversary_lr=-1)
    with pytest.raises(UserError, match="num_negatives=0"):
        small(AdCo, num_negatives=0)
    batch = views(AdCo)
    with pytest.raises(UserError, match="set --model.symmetric false"):
        small(AdCo, symmetric=True).step(batch._replace(local_views=[batch.global_views[0]]))
