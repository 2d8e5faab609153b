"""SimSiam against numbers from the authors' code."""

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.optim import OptimConfig
from methods.simsiam import SimSiam
from tests.support.methods import small
from tests.support.trajectory import TINY, replay

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def test_loss_and_gradient(golden):
    g = golden("simsiam")
    module = small(SimSiam)
    assert isinstance(module, SimSiam)
    e = {name: g[name].clone().requires_grad_() for name in ("p1", "p2", "z1", "z2")}
    loss = module.contrast(e | {"h1": e["z1"], "h2": e["z2"]}).loss
    loss.backward()
    torch.testing.assert_close(loss.detach(), g["loss"], **CLOSE)
    torch.testing.assert_close(e["p1"].grad, g["grad_p1"], **CLOSE)
    torch.testing.assert_close(e["p2"].grad, g["grad_p2"], **CLOSE)
    assert e["z1"].grad is None
    assert e["z2"].grad is None


def golden_module(g: dict[str, Tensor], fixed_predictor_lr: bool) -> SimSiam:
    """Our class with the authors' weights and settings; their epochs have one step."""
    optim = OptimConfig(
        "sgd",
        lr=float(g["traj_lr"]),
        weight_decay=float(g["traj_wd"]),
        options={"momentum": 0.9},
        lr_scaling="none",
        warmup_epochs=0,
        decay_biases=True,
    )
    module = SimSiam(
        backbone=TINY,
        optim=optim,
        hidden_dim=10,
        out_dim=8,
        predictor_hidden_dim=4,
        fixed_predictor_lr=fixed_predictor_lr,
    ).double()
    module.load_state_dict(ours(part(g, "traj_init.")), strict=False)
    return module


def part(g: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in g.items() if name.startswith(prefix)}


def ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' names of parameters and buffers in our words."""
    return {n.replace("encoder.fc.", "projector.").replace("encoder.", "backbone."): v for n, v in state.items()}


def test_first_step(golden):
    g = golden("simsiam")
    module = golden_module(g, False)
    x1, x2 = g["traj_x1"][0], g["traj_x2"][0]
    h1, h2 = module.backbone(x1), module.backbone(x2)
    z1, z2 = module.projector(h1), module.projector(h2)
    e = {"h1": h1, "h2": h2, "z1": z1, "z2": z2, "p1": module.predictor(z1), "p2": module.predictor(z2)}
    for name in ("p1", "p2", "z1", "z2"):
        torch.testing.assert_close(e[name], g[f"traj_step0_{name}"], **CLOSE)
    module.contrast(e).loss.backward()
    for name, value in ours(part(g, "traj_step0_grad.")).items():
        grad = module.get_parameter(name).grad
        torch.testing.assert_close(torch.zeros_like(value) if grad is None else grad, value, **CLOSE, msg=name)
    assert module.get_parameter("projector.6.bias").grad is None  # frozen


@pytest.mark.parametrize(("fixed", "name"), [(False, "plain"), (True, "fixpredlr")])
def test_five_steps(golden, fixed, name):
    g = golden("simsiam")
    module = golden_module(g, fixed)
    run = replay(module, [g["traj_x1"], g["traj_x2"]], read=lambda _: {})
    torch.testing.assert_close(run["loss"], g[f"traj_{name}_loss"], **CLOSE)
    torch.testing.assert_close(run["lr"], g[f"traj_{name}_lr"].expand(-1, 2), **CLOSE)
    state = module.state_dict()
    for key, value in ours(part(g, f"traj_{name}_final.")).items():
        torch.testing.assert_close(state[key], value, **CLOSE, msg=key)


def test_no_array_of_the_golden_file_is_forgotten(golden):
    g = golden("simsiam")
    known = ("p1", "p2", "z1", "z2", "loss", "grad_p1", "grad_p2", "sched_", "traj_init.", "traj_step0_", "traj_x")
    settings = ("traj_lr", "traj_wd", "traj_epochs", "traj_plain_", "traj_fixpredlr_")
    assert not [name for name in g if not name.startswith(known + settings)]
    assert np.isclose(float(g["traj_epochs"]), 5)
