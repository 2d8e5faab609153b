"""SwAV against numbers from the authors' code: a step, five steps in which the queue fills, and both on two ranks."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import methods.swav
from datamodules.views import Views
from methods.optim import OptimConfig
from methods.swav import SwAV
from tests.support.golden import load
from tests.support.methods import small
from tests.support.ranks import on_ranks
from tests.support.trajectory import TINY, replay

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}


class GivenCrops(SwAV):
    """SwAV with recorded projector outputs in place of its networks: two views [B, V / 2, d] hold the V crops."""

    def embed(self, views: Views) -> dict[str, Tensor]:
        z = F.normalize(torch.cat(views.global_views, dim=1), dim=2)
        h = torch.zeros(len(z), self.feature_dim)
        return {"h1": h, "h2": h, "z": z}


def given(g: dict[str, Tensor], **arguments: Any) -> GivenCrops:
    """The module with the authors' prototypes and settings, which trains nothing but the prototypes."""
    sgd = OptimConfig(
        "sgd",
        lr=float(g["q_lr_proto"]),
        weight_decay=0.0,
        lr_scaling="none",
        warmup_epochs=0,
        final_lr_ratio=1.0,
    )
    K, d = g["prototypes"].shape
    module = GivenCrops(
        num_prototypes=K,
        out_dim=d,
        temperature=float(g["temperature"]),
        epsilon=float(g["sk_eps"]),
        sinkhorn_iterations=int(g["sk_iters"]),
        freeze_prototypes_epochs=0,
        backbone=TINY,
        optim=sgd,
        **arguments,
    ).double()
    module.backbone.requires_grad_(False)
    module.projector.requires_grad_(False)
    with torch.no_grad():
        module.prototypes.weight.copy_(g["prototypes"])
    return module


def as_views(crops: Tensor) -> list[Tensor]:
    """Crops [..., V, B, d] as the two views [..., B, V / 2, d] of `GivenCrops`."""
    return list(crops.transpose(-3, -2).chunk(2, dim=-2))


def record_codes(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[Tensor]]:
    """From now on keeps how many rows each assignment had, and its codes."""
    rows, codes, original = [], [], methods.swav.sinkhorn

    def sinkhorn(scores: Tensor, *settings: Any) -> Tensor:
        rows.append(len(scores))
        codes.append(original(scores, *settings))
        return codes[-1]

    monkeypatch.setattr(methods.swav, "sinkhorn", sinkhorn)
    return rows, codes


def a_step(g: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """Loss, codes and gradients of one step without queue on some rows of the recorded batch."""
    module, crops = given(g), g["crops_raw"][:, rows].clone().requires_grad_()
    index = torch.arange(crops.shape[1])
    with pytest.MonkeyPatch.context() as patch:
        _, codes = record_codes(patch)
        loss = module.step(Views(as_views(crops), index, index)).loss
    loss.backward()
    weight = module.prototypes.weight
    assert crops.grad is not None and weight.grad is not None
    return {
        "loss": loss.detach(),
        "Q0": codes[0][:, 0],
        "Q1": codes[0][:, 1],
        "grad_crops_raw": crops.grad,
        "grad_prototypes": weight.grad,
        "prototypes_normalised": weight.detach(),
    }


def test_a_step_without_queue(golden):
    g = golden("swav")
    assert g["nmb_crops"].tolist() == [2, 2]
    for name, value in a_step(g, slice(None)).items():
        torch.testing.assert_close(value, g[name], **CLOSE, msg=name)


def half_a_step(rank: int) -> dict[str, np.ndarray]:
    g = load("swav")
    return {name: value.numpy() for name, value in a_step(g, slice(2 * rank, 2 * rank + 2)).items()}


@pytest.mark.ddp
def test_a_step_without_queue_on_two_ranks(golden):
    g = golden("swav")
    for rank, values in enumerate(on_ranks(2, half_a_step)):
        for name in ("loss", "grad_crops_raw", "grad_prototypes"):
            np.testing.assert_allclose(values[name], g[f"w2_{name}_r{rank}"], **CLOSE, err_msg=name)
        for name in ("Q0", "Q1"):
            np.testing.assert_allclose(values[name], g[f"w2_{name}"][2 * rank : 2 * rank + 2], **CLOSE, err_msg=name)


def newest_first(keys: Tensor, pointer: int, B: int, ranks: int = 1) -> Tensor:
    """Our rows [L, 2, d] in the authors' order [ranks, 2, L / ranks, d]: batches, the newest first, of each rank."""
    batches = keys.roll(-pointer, 0).unflatten(0, (-1, ranks, B // ranks)).flip(0)
    return batches.transpose(0, 1).flatten(1, 2).transpose(1, 2)


def oldest_first(queues: Tensor, B: int) -> Tensor:
    """The authors' rows [ranks, 2, L / ranks, d] in our order."""
    batches = queues.transpose(1, 2).unflatten(1, (-1, B // len(queues))).transpose(0, 1)
    return batches.flip(0).flatten(0, 2)


def read(module: SwAV) -> dict[str, Tensor]:
    assert module.queue is not None
    values = {
        "prototypes": module.prototypes.weight,
        "queue": module.queue.keys,
        "seen": torch.tensor(module.queue.seen),
    }
    return {name: value.detach() for name, value in values.items()}


def test_five_steps_in_which_the_queue_fills_and_joins(golden, monkeypatch):
    g = golden("swav")
    L, B = int(g["q_len"]), g["q_crops_raw"].shape[2]
    rows, codes = record_codes(monkeypatch)
    run = replay(given(g, queue_size=L), as_views(g["q_crops_raw"]), read)
    torch.testing.assert_close(run["loss"], g["q_loss"], **CLOSE)
    torch.testing.assert_close(run["prototypes"], g["q_prototypes_after"], **CLOSE)
    for step in range(5):
        assert g["q_sinkhorn_rows"][step].tolist() == [rows[step]] * 2
        torch.testing.assert_close(codes[step][:B].transpose(0, 1), g["q_Q"][step], **CLOSE)
        queue = newest_first(run["queue"][step], int(run["seen"][step]) % L, B)
        torch.testing.assert_close(queue[0], g["q_queue_after"][step], **CLOSE)
    assert run["seen"].tolist() == [4, 8, 12, 16, 20]  # full after three steps, so it joins in the fourth


def full_queues(rank: int) -> dict[str, np.ndarray]:
    g = load("swav")
    B = g["q_crops_raw"].shape[2]
    module = given(g, queue_size=2 * int(g["q_len"]))
    assert module.queue is not None
    module.queue.keys.copy_(oldest_first(torch.stack(g["w2_queue0"].chunk(2, dim=1)), B))
    module.queue.seen = len(module.queue.keys)
    with pytest.MonkeyPatch.context() as patch:
        rows, codes = record_codes(patch)
        run = replay(module, as_views(g["q_crops_raw"][:2]), read, ranks=2, rank=rank)
    assert rows == [2 + 12] * 2  # half of the batch, half of the queue
    own = [
        newest_first(keys, int(seen) % len(keys), B, ranks=2)[rank]
        for keys, seen in zip(run["queue"], run["seen"], strict=True)
    ]
    codes = torch.cat([step[: B // 2].transpose(0, 1) for step in codes])
    values = {"loss": run["loss"], "Q": codes, "queue": torch.stack(own), "prototypes": run["prototypes"]}
    return {name: value.numpy() for name, value in values.items()}


@pytest.mark.ddp
def test_two_steps_with_full_queues_on_two_ranks(golden):
    g = golden("swav")
    for rank, run in enumerate(on_ranks(2, full_queues)):
        np.testing.assert_allclose(run["loss"], g[f"w2_q_loss_r{rank}"], **CLOSE)
        np.testing.assert_allclose(run["Q"], g[f"w2_q_Q_r{rank}"], **CLOSE)
        np.testing.assert_allclose(run["queue"], g[f"w2_q_queue_after_r{rank}"], **CLOSE)
        np.testing.assert_allclose(run["prototypes"], g["w2_q_prototypes_after"], **CLOSE)


def test_learning_rates(golden):
    g = golden("swav")
    start, base, warmup_epochs, epochs, final = g["sched_params"].tolist()
    steps = 313
    for step, expected in zip(g["sched_step"].tolist(), g["sched_lr"].tolist(), strict=True):
        # Theirs is at the peak in the warm-up's last step and once more in the step after.
        warmup = int(warmup_epochs) * steps - (step < warmup_epochs * steps)
        optim = OptimConfig(
            "lars",
            lr=base,
            lr_base_batch=4096,
            warmup_epochs=warmup / steps,
            start_lr_ratio=start / base,
            final_lr_ratio=final / base,
        )
        groups = small(SwAV, optim=optim).param_groups()
        _, schedule = optim.build(groups, 4096, total_steps=epochs * steps, steps_per_epoch=steps)
        assert base * schedule.lr_lambdas[0](step) == pytest.approx(expected, rel=1e-12)


def test_no_array_of_the_golden_file_is_forgotten(golden):
    losses = {"sk_scores", "sk_Q_it1", "sk_Q", "sk_Q_it10", "w2_sk_Q"}  # tests/methods/losses/test_swav.py
    settings = {"sk_eps", "sk_iters", "temperature", "nmb_crops", "prototypes", "q_len", "q_lr_proto"}
    step = {"crops_raw", "loss", "Q0", "Q1", "grad_crops_raw", "grad_prototypes", "prototypes_normalised"}
    queue = {f"q_{name}" for name in ("crops_raw", "loss", "sinkhorn_rows", "Q", "queue_after", "prototypes_after")}
    ranked = ("loss", "grad_crops_raw", "grad_prototypes", "q_loss", "q_Q", "q_queue_after")
    two = {"w2_Q0", "w2_Q1", "w2_queue0", "w2_q_prototypes_after"} | {
        f"w2_{n}_r{rank}" for n in ranked for rank in (0, 1)
    }
    assert set(golden("swav")) == losses | settings | step | queue | two | {"sched_step", "sched_lr", "sched_params"}
