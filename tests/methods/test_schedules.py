"""Schedules against the authors' tables: through `OptimConfig.build`, stepped as Lightning steps them."""

import math
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from methods import SimCLR
from methods.optim import OptimConfig
from methods.schedules import after_warmup, constant, cosine, multi_step, once_an_epoch
from tests.support.methods import small, views
from tests.support.replay import Prepared, quiet_trainer

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
MOCO = {"optimizer": "sgd", "warmup_epochs": 0, "lr_interval": "epoch", "decay_biases": True}


def rates(config: OptimConfig, total_steps: int, steps_per_epoch: int, batch: int = 256, fixed: bool = False) -> Tensor:
    """[total_steps + 1] float64, the rate of each step and the one left at the end; with `fixed` [.., 2] instead."""
    groups = config.groups(nn.Linear(2, 2, bias=False))
    if fixed:
        groups += config.groups(nn.Linear(2, 2, bias=False), fixed_lr=True)
    optimizer, scheduler = config.build(groups, batch, total_steps, steps_per_epoch)
    table = []
    for _ in range(total_steps + 1):
        table.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return torch.tensor(table, dtype=torch.float64).squeeze(1)


def by_epoch(table: Tensor, epochs: int) -> Tensor:
    """[epochs, ...] of [epochs * steps + 1, ...], after a look that the rate stays within each."""
    table = table[:-1].unflatten(0, (epochs, -1))
    assert torch.equal(table, table[:, :1].expand_as(table))
    return table[:, 0]


@pytest.mark.parametrize("run", ["lin", "sqrt", "cifar"])
def test_simclr(golden, run):
    g = golden("simclr")
    base, batch, epochs, warmup_epochs, images, sqrt = g[f"sched_{run}_params"].tolist()
    # Their square-root form is 0.075 * sqrt(batch); ours states the rate for 256 images.
    lr, scaling = (base * math.sqrt(256), "sqrt") if sqrt else (base, "linear")
    warmup, total = math.floor(warmup_epochs * images / batch), math.floor(images * epochs / batch) + 1
    config = OptimConfig("sgd", lr=lr, lr_scaling=scaling, warmup_epochs=1)
    optimizer, scheduler = config.build([{"params": [nn.Parameter(torch.ones(2))]}], int(batch), total, warmup)
    factors = [scheduler.lr_lambdas[0](int(step)) for step in g[f"sched_{run}_step"]]  # too many steps to take them all
    ours = scheduler.base_lrs[0] * torch.tensor(factors, dtype=torch.float64)
    torch.testing.assert_close(ours, g[f"sched_{run}_lr"], rtol=1e-5, atol=1e-6)  # theirs is float32


def test_moco_v1(golden):
    g = golden("moco_v1")
    lr, epochs, *milestones = g["sched_params"].tolist()
    config = OptimConfig(**MOCO, lr=lr, schedule="steps", milestones=milestones)
    close(by_epoch(rates(config, int(epochs) * 3, 3), int(epochs))[g["sched_epoch"]], g["sched_lr"])


def test_moco_v2(golden):
    g = golden("moco_v2")
    lr, epochs = g["sched_params"].tolist()[:2]
    close(by_epoch(rates(OptimConfig(**MOCO, lr=lr), int(epochs) * 3, 3), int(epochs))[g["sched_epoch"]], g["sched_lr"])


def test_adco(golden):
    g = golden("adco")
    lr, final, epochs = g["sched_params"].tolist()
    config = OptimConfig(**MOCO, lr=lr, final_lr_ratio=final / lr)
    close(by_epoch(rates(config, int(epochs) * 3, 3), int(epochs))[g["sched_epoch"]], g["sched_lr"])


def test_simsiam(golden):
    g = golden("simsiam")
    lr, epochs = g["sched_params"].tolist()  # for 512 images
    table = by_epoch(rates(OptimConfig(**MOCO, lr=lr / 2), int(epochs) * 3, 3, batch=512, fixed=True), int(epochs))
    close(table[g["sched_epoch"]], g["sched_lr"])


@pytest.mark.parametrize(("run", "fixed"), [("plain", False), ("fixpredlr", True)])
def test_simsiams_short_runs(golden, run, fixed):
    g = golden("simsiam")
    config = OptimConfig(**MOCO, lr=g["traj_lr"].item())
    table = rates(config, int(g["traj_epochs"]), 1, fixed=fixed)[:-1]
    close(table.view(len(table), -1), g[f"traj_{run}_lr"])


def test_moco_v3(golden):
    g = golden("moco_v3")
    lr, epochs, warmup_epochs, _ = g["sched_params"].tolist()
    config = OptimConfig("sgd", lr=lr, warmup_epochs=warmup_epochs)
    table = rates(config, int(epochs) * 40, 40)  # fine enough for all the fractions of an epoch that the table holds
    close(table[(g["sched_epoch"] * 40).round().long()], g["sched_lr"])


@pytest.mark.parametrize("run", ["rn", "vit"])
def test_moco_v3s_short_runs(golden, run):
    g = golden("moco_v3")
    config = OptimConfig("sgd", lr=g[f"{run}_traj_lr"].item(), warmup_epochs=1)
    close(rates(config, 2 * int(g[f"{run}_traj_epochs"]), 2)[:5], g[f"{run}_traj_lr_steps"])


def test_byol(golden):
    g = golden("byol")
    lr, batch, total, warmup = g["lr_params"].tolist()
    table = rates(OptimConfig("sgd", lr=lr, warmup_epochs=1), int(total), int(warmup), int(batch))
    torch.testing.assert_close(table[g["lr_step"]], g["lr_value"], rtol=1e-5, atol=1e-9)  # theirs is float32 in parts
    lr, batch, total, warmup, *_ = g["traj_params"].tolist()
    table = rates(OptimConfig("sgd", lr=lr, warmup_epochs=1), int(total), int(warmup), int(batch))
    torch.testing.assert_close(table[:5], g["traj_lr"], rtol=1e-7, atol=0)


def test_relic(golden):
    g = golden("relic")
    batch, lr, total, warmup = g["lr/batch_base_total_warmup"].tolist()
    table = rates(OptimConfig("sgd", lr=lr, warmup_epochs=1), int(total), int(warmup), int(batch))
    torch.testing.assert_close(table[g["lr/steps"]], g["lr/official"], rtol=1e-6, atol=1e-9)  # their warm-up is float32


@pytest.mark.parametrize("run", ["a", "b"])
def test_fast_moco_is_one_step_ahead_of_us(golden, run):
    g = golden("fast_moco")
    (epochs, steps), theirs = g[f"schedule/{run}_epochs_iters"].tolist(), g[f"schedule/{run}_lr"]
    config = OptimConfig("sgd", lr=0.1, warmup_epochs=1, start_lr_ratio=0.25)
    # They count steps from 1: the last step of the warm-up has the peak already, the last step of the run rate 0.
    close(rates(config, epochs * steps - 1, steps - 1, fixed=True), theirs)
    ours = rates(config, epochs * steps, steps, fixed=True)
    close(ours[steps:], theirs[steps - 1 :])
    assert (ours[:-1] - theirs).abs().max() <= 0.1 * 0.75 / steps * (1 + 1e-9)  # one step of the warm-up


def test_ends_and_middle():
    assert [cosine(s, 4, 12, 0.1) for s in (0, 4, 8, 12, 99)] == pytest.approx([1, 1, 0.55, 0.1, 0.1])
    assert {cosine(s, 4, 12, 1.0) for s in range(15)} == {1}
    assert {cosine(s, 4, math.inf) for s in (0, 4, 10**9)} == {1}
    assert cosine(5, 5, 5) == 1  # a warm-up as long as the run
    assert [multi_step(s, [3, 6], 0.5) for s in (0, 2, 3, 5, 6, 99)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert [after_warmup(s, constant, 4, 0.2) for s in (0, 1, 4, 9)] == pytest.approx([0.2, 0.4, 1, 1])
    assert after_warmup(0, constant, 0) == 1
    assert [once_an_epoch(s, float, 3) for s in range(7)] == [0, 0, 0, 3, 3, 3, 6]


def test_milestones_follow_a_warm_up_within_the_epoch():
    config = OptimConfig(
        "sgd", lr=1.0, warmup_epochs=1, start_lr_ratio=0.5, schedule="steps", milestones=[1.5, 2], step_factor=0.2
    )
    assert rates(config, 10, 4).tolist() == pytest.approx([0.5, 0.625, 0.75, 0.875, 1, 1, 0.2, 0.2, 0.04, 0.04, 0.04])


def test_without_an_end_the_rate_stays():
    optimizer, scheduler = OptimConfig("sgd", lr=1.0, warmup_epochs=2).build(
        [{"params": [nn.Parameter(torch.ones(2))]}], 256, math.inf, 3
    )
    table = []
    for _ in range(9):
        table.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert table == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1])


@pytest.mark.parametrize(
    "settings",
    [{"warmup_epochs": 2}, MOCO, {"warmup_epochs": 1, "schedule": "steps", "milestones": [2, 3], "step_factor": 0.5}],
)
def test_a_schedule_is_plain_data_and_resumes(settings):
    def build():
        config = OptimConfig(**{"optimizer": "sgd", "lr": 1.0} | settings)
        groups = config.groups(nn.Linear(2, 2), lr=0.3) + config.groups(nn.Linear(2, 2), fixed_lr=True)
        return config.build(groups, 256, 20, 5)

    optimizer, scheduler = build()
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    state, optimizer_state = (pickle.loads(pickle.dumps(part.state_dict())) for part in (scheduler, optimizer))
    again, resumed = build()
    again.load_state_dict(optimizer_state)
    resumed.load_state_dict(state)
    curves = [[pickle.loads(pickle.dumps(curve)) for curve in scheduler.lr_lambdas] for _ in range(2)]
    for step in range(7, 20):
        assert [g["lr"] for g in again.param_groups] == [g["lr"] for g in optimizer.param_groups]
        assert [curve(step) for curve in curves[0]] == [curve(step) for curve in scheduler.lr_lambdas]
        for part in (optimizer, scheduler, again, resumed):
            part.step()


def lightnings_rates(optim: OptimConfig, batches: int, **trainer: int) -> list[float]:
    """The rate of each optimiser step of a run."""
    module, batch, seen = small(SimCLR, optim=optim), views(SimCLR, 4), []
    module.on_before_optimizer_step = lambda optimizer: seen.append(optimizer.param_groups[0]["lr"])
    quiet_trainer([], **trainer).fit(module, datamodule=Prepared([batch] * batches, [batch], None))
    return seen


def test_lightning_holds_the_rate_for_an_epoch_of_accumulated_batches():
    optim = OptimConfig("sgd", lr=1.0, lr_scaling="none", warmup_epochs=0, lr_interval="epoch")
    seen = lightnings_rates(optim, 5, max_epochs=4, accumulate_grad_batches=2)  # windows of 2: 3 steps an epoch
    by_hand = [(1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert seen == pytest.approx([rate for rate in by_hand for _ in range(3)])


def test_a_warm_up_epoch_has_the_steps_that_accumulation_leaves():
    optim = OptimConfig("sgd", lr=1.0, lr_scaling="none", warmup_epochs=1)
    seen = lightnings_rates(optim, 5, max_epochs=2, accumulate_grad_batches=2)
    assert seen == pytest.approx([0, 1 / 3, 2 / 3, 1, 3 / 4, 1 / 4])


def test_a_run_that_counts_steps_knows_its_epochs():
    optim = OptimConfig("sgd", lr=1.0, lr_scaling="none", warmup_epochs=2)
    seen = lightnings_rates(optim, 3, max_epochs=-1, max_steps=8)
    assert seen == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1 / 2])


def test_weight_decay_follows_half_a_cosine_where_there_is_any():
    weight, bias = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))
    config = OptimConfig("adamw", lr=1e-3, weight_decay=0.04, final_weight_decay=0.4, warmup_epochs=1)
    groups = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}]
    optimizer, scheduler = config.build(groups, global_batch_size=256, total_steps=10, steps_per_epoch=2)
    for step in range(11):
        expected = 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * step / 10)) / 2
        assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(expected, rel=1e-12)
        assert optimizer.param_groups[1]["weight_decay"] == 0
        optimizer.step()
        scheduler.step()
    state = scheduler.state_dict()
    assert "total_steps" not in state  # a resumed run may be longer
    again, resumed = config.build(groups, global_batch_size=256, total_steps=10, steps_per_epoch=2)
    resumed.load_state_dict(state)
    resumed.step()
    assert again.param_groups[0]["weight_decay"] == pytest.approx(0.4)


@pytest.mark.parametrize("values", [{"final_weight_decay": 0.4, "weight_decay": 0.0}, {"clip_each": 0.0}])
def test_refuses_an_impossible_decay_or_clipping(values):
    with pytest.raises(UserError, match="final_weight_decay|clip_each"):
        OptimConfig(**values)
