"""Barlow Twins against numbers from the authors' code."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from methods.barlow_twins import BarlowTwins
from methods.base import StepOutput
from methods.losses.cross_correlation import cross_correlation, distance_to_identity
from methods.losses.moments import mean_and_variance, mean_product
from methods.optim import OptimConfig
from tests.support.golden import load
from tests.support.methods import small
from tests.support.ranks import on_ranks
from tests.support.trajectory import TINY, replay

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def contrast(g: dict[str, Tensor], rows: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
    """The method's own loss on rows of the golden projections, and these."""
    module = small(BarlowTwins, off_diagonal_weight=float(g["lambd"])).double()
    assert isinstance(module, BarlowTwins)
    z1, z2 = (g[name][rows].clone().requires_grad_() for name in ("z1", "z2"))
    return module.contrast({"z1": z1, "z2": z2, "h1": z1, "h2": z2}).loss, z1, z2


def test_loss_and_gradient(golden):
    g = golden("barlow_twins")
    assert g["batch_size"] == len(g["z1"])
    loss, z1, z2 = contrast(g)
    loss.backward()
    torch.testing.assert_close(loss.detach(), g["loss"], **CLOSE)
    torch.testing.assert_close(z1.grad, g["grad_z1"], **CLOSE)
    torch.testing.assert_close(z2.grad, g["grad_z2"], **CLOSE)


def test_standardises_with_what_the_authors_average(golden):
    """Their last BatchNorm is called on both views in turn; ours keeps no averages."""
    g = golden("barlow_twins")
    B = len(g["z1"])
    running = torch.zeros(16, dtype=torch.float64), torch.ones(16, dtype=torch.float64)
    for z in (g["z1"], g["z2"]):
        mean, variance = mean_and_variance(z)
        running = torch.lerp(running[0], mean, 0.1), torch.lerp(running[1], variance * B / (B - 1), 0.1)
    torch.testing.assert_close(running[0], g["bn_running_mean_after"], **CLOSE)
    torch.testing.assert_close(running[1], g["bn_running_var_after"], **CLOSE)


def on_half(rank: int) -> dict[str, np.ndarray]:
    g = load("barlow_twins")
    half = len(g["z1"]) // 2
    rows = slice(rank * half, (rank + 1) * half)
    norm = nn.BatchNorm1d(16, affine=False).double()  # of the rank alone, as in the recording
    z1, z2 = (g[name][rows].clone().requires_grad_() for name in ("z1", "z2"))
    local = distance_to_identity(mean_product(norm(z1), norm(z2)), float(g["lambd"]))
    grads = torch.autograd.grad(local, (z1, z2))
    whole, w1, w2 = contrast(g, rows)
    whole.backward()
    answer = {"loss": local, "z1": grads[0], "z2": grads[1], "whole": whole, "whole_z1": w1.grad, "whole_z2": w2.grad}
    return {name: value.detach().numpy() for name, value in answer.items() if value is not None}


@pytest.mark.ddp
def test_two_ranks(golden):
    g = golden("barlow_twins")
    answers = on_ranks(2, on_half)
    for rank, answer in enumerate(answers):
        np.testing.assert_allclose(answer["loss"], g[f"w2_loss_r{rank}"], **CLOSE)
        for view in ("z1", "z2"):
            # Autograd does not see the authors' sum over ranks, and DDP's mean of what is left is the true gradient
            # divided by the number of ranks; ours is whole.
            np.testing.assert_allclose(answer[view], 2 * g[f"w2_grad_{view}_r{rank}"], **CLOSE)
        np.testing.assert_allclose(answer["whole"], g["loss"], **CLOSE)
    for view in ("z1", "z2"):  # with the statistics of both ranks: one process
        both = np.concatenate([answer[f"whole_{view}"] for answer in answers]) / 2
        np.testing.assert_allclose(both, g[f"grad_{view}"], **CLOSE)


class WithRunningAverages(BarlowTwins):
    """Barlow Twins that also keeps the averages of the authors' last BatchNorm."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.norm = nn.BatchNorm1d(8, affine=False)

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        self.norm(embeddings["z1"].detach())
        self.norm(embeddings["z2"].detach())
        return super().contrast(embeddings)


def part(g: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in g.items() if name.startswith(prefix)}


def ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' names of parameters and buffers in our words."""
    return {("norm." + n.removeprefix("bn.") if n.startswith("bn.") else n): value for n, value in state.items()}


def test_six_steps(golden):
    g = golden("barlow_twins")
    batch, epochs, steps, lr, bias_lr, decay, weight = g["traj_params"].tolist()
    optim = OptimConfig(
        "lars", lr=lr, weight_decay=decay, options={"momentum": 0.9}, warmup_epochs=10, final_lr_ratio=0.001
    )
    module = WithRunningAverages(
        backbone=TINY,
        optim=optim,
        off_diagonal_weight=weight,
        hidden_dim=12,
        out_dim=8,
        bias_lr_scale=bias_lr / lr,
    ).double()
    module.load_state_dict(part(g, "traj_init."), strict=False)
    assert batch == g["traj_x1"].shape[1]
    run = replay(
        module, [g["traj_x1"], g["traj_x2"]], lambda _: {}, steps_per_epoch=int(steps), total_epochs=int(epochs)
    )
    torch.testing.assert_close(run["loss"], g["traj_loss"], **CLOSE)
    torch.testing.assert_close(run["lr"], g["traj_lr"], **CLOSE)
    state = module.state_dict()
    for name, value in ours(part(g, "traj_final.")).items():
        torch.testing.assert_close(state[name], value, **CLOSE, msg=name)


def test_schedule_of_both_rates(golden):
    g = golden("barlow_twins")
    epochs, batch, steps = g["sched_params"].tolist()
    optim = OptimConfig("lars", lr=0.2, weight_decay=1e-6, warmup_epochs=10, final_lr_ratio=0.001)
    module = small(BarlowTwins, optim=optim)  # with the rates' default proportion
    optimizer, scheduler = optim.build(module.param_groups(), batch, epochs * steps, steps)
    assert [group["adapt"] for group in optimizer.param_groups] == [True, False]
    for step, expected in zip(g["sched_step"].tolist(), g["sched_lr"].tolist(), strict=True):
        rates = [base * f(step) for base, f in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        assert rates == pytest.approx(expected, rel=1e-9)


def test_one_group_where_biases_decay_too():
    groups = small(BarlowTwins, optim=OptimConfig("sgd", decay_biases=True)).param_groups()
    assert len(groups) == 1
    assert "lr_scale" not in groups[0]


def test_no_array_of_the_golden_file_is_forgotten(golden):
    known = ("z1", "z2", "lambd", "batch_size", "loss", "grad_z", "bn_running_", "w2_", "sched_", "traj_")
    assert not [name for name in golden("barlow_twins") if not name.startswith(known)]


def test_tends_to_the_identity():
    """Eight mixed causes are in both views, eight others differ: a linear map has to find the shared ones, unmixed."""
    generator = torch.Generator().manual_seed(0)
    module = small(BarlowTwins, off_diagonal_weight=0.2)
    assert isinstance(module, BarlowTwins)
    mixing = torch.randn(8, 8, generator=generator) / 3
    projector = nn.Linear(16, 8, bias=False)
    optimizer = torch.optim.Adam(projector.parameters(), lr=0.03)

    def projections(B: int) -> list[Tensor]:
        shared = torch.randn(B, 8, generator=generator) @ mixing
        return [projector(torch.cat([shared, torch.randn(B, 8, generator=generator)], dim=1)) for _ in range(2)]

    def correlation() -> tuple[float, float]:
        """Mean on the diagonal, and mean size off it, of many images."""
        with torch.no_grad():
            c = cross_correlation(*projections(4096))
            return float(c.diagonal().mean()), float(c.fill_diagonal_(0).abs().sum() / 56)

    before = correlation()
    for _ in range(200):
        z1, z2 = projections(128)
        optimizer.zero_grad()
        module.contrast({"z1": z1, "z2": z2, "h1": z1, "h2": z2}).loss.backward()
        optimizer.step()
    after = correlation()
    assert before[0] < 0.6
    assert after[0] > 0.9
    assert after[1] < min(0.1, before[1] / 2)


def test_says_what_is_wrong():
    with pytest.raises(UserError, match="off_diagonal_weight=-1"):
        small(BarlowTwins, off_diagonal_weight=-1.0)
