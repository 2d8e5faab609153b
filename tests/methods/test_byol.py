"""BYOL against numbers from the authors' code."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks import representation
from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.byol import BYOL
from methods.losses import negative_cosine
from methods.modules import EMAPair, frozen_copy
from methods.optim import OptimConfig
from tests.support.golden import load
from tests.support.methods import small, views
from tests.support.ranks import on_ranks
from tests.support.trajectory import TINY, replay

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def test_loss_and_gradient(golden):
    g = golden("byol")
    module = small(BYOL)
    assert isinstance(module, BYOL)
    p1, p2 = g["pred1_raw"].requires_grad_(), g["pred2_raw"].requires_grad_()
    e = {"p1": p1, "p2": p2, "t1": g["targ1_raw"], "t2": g["targ2_raw"], "z1": p1, "h1": p1, "h2": p2}
    loss = module.contrast(e).loss
    loss.backward()
    torch.testing.assert_close(loss.detach(), g["loss"], **CLOSE)
    torch.testing.assert_close(p1.grad, g["grad_pred1_raw"], **CLOSE)
    torch.testing.assert_close(p2.grad, g["grad_pred2_raw"], **CLOSE)
    each = [2 + 2 * negative_cosine(p1[i : i + 1], g["targ2_raw"][i : i + 1]) for i in range(len(p1))]
    torch.testing.assert_close(torch.stack(each).detach(), g["regression_loss_each"], **CLOSE)


def test_momentum_schedule(golden):
    g = golden("byol")
    base, total = g["ema_base_max"].tolist()
    pair = EMAPair((nn.Linear(1, 1),), nn.Linear(1, 1), base, 1.0)
    at = [pair.momentum_at(min(1, step / total)) for step in g["ema_step"].tolist()]
    assert at == pytest.approx(g["ema_tau"].tolist(), rel=1e-9)


class WithAuthorsExtras(BYOL):
    """BYOL with what the authors' run has besides: a linear classifier in the same loss, and copies of all heads."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.classifier = nn.Linear(self.feature_dim, 6)
        self.target_predictor = frozen_copy(self.predictor)
        self.target_classifier = frozen_copy(self.classifier)

    def ema_pairs(self) -> list[EMAPair]:
        m = self.teacher_momentum
        extra = [(self.predictor, self.target_predictor), (self.classifier, self.target_classifier)]
        return super().ema_pairs() + [EMAPair((student,), teacher, m, 1.0) for student, teacher in extra]

    def embed(self, views: Views) -> dict[str, Tensor]:
        return super().embed(views) | {"label": views.label}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        output = super().contrast(embeddings)
        self.representation_loss = output.loss.detach()
        self.classifier_loss = F.cross_entropy(self.classifier(embeddings["h1"].detach()), embeddings["label"])
        output.loss = output.loss + self.classifier_loss
        return output


def ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Haiku's names and (in, out) layout in our words."""
    layers = {"linear": "0", "batch_norm": "1", "linear_1": "3"}
    renamed = {}
    for name, value in state.items():
        module, *layer, kind = name.split(".")
        kind = {"w": "weight", "b": "bias", "scale": "weight", "offset": "bias"}[kind]
        if module == "encoder":
            path = "backbone." + {"lin": "lin", "batch_norm": "bn"}[layer[0]]
        else:
            path = ".".join([module, *(layers[part] for part in layer)])
        is_map = kind == "weight" and not name.endswith("scale")
        renamed[f"{path}.{kind}"] = value.T.contiguous() if is_map else value.flatten()
    return renamed


def target(name: str) -> str:
    """Where our module keeps the target's copy of a parameter."""
    head = name.partition(".")[0]
    return f"teacher.{name}" if head in ("backbone", "projector") else f"target_{name}"


def part(g: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in g.items() if name.startswith(prefix)}


def golden_module(g: dict[str, Tensor], batch_norm: str = "local") -> WithAuthorsExtras:
    """Our class with the authors' weights and settings; the target starts elsewhere than the online network."""
    base_lr, _, _, warmup, tau, wd = g["traj_params"].tolist()
    optim = OptimConfig("lars", lr=base_lr, weight_decay=wd, options={"momentum": 0.9}, warmup_epochs=warmup / 2)
    module = WithAuthorsExtras(
        backbone=TINY, optim=optim, hidden_dim=12, out_dim=8, teacher_momentum=tau, batch_norm=batch_norm
    )
    module.predictor = nn.Sequential(nn.Linear(8, 14), nn.BatchNorm1d(14), nn.ReLU(), nn.Linear(14, 8, bias=False))
    module.target_predictor = frozen_copy(module.predictor)
    module.double()
    online, initial = ours(part(g, "traj_online0.")), ours(part(g, "traj_target0."))
    module.load_state_dict(online | {target(name): value for name, value in initial.items()}, strict=False)
    return module


def read(module: WithAuthorsExtras) -> dict[str, Tensor]:
    return {
        "encoder": module.backbone.lin.weight.T,
        "target": module.teacher.backbone.lin.weight.T,
        "representation": module.representation_loss,
        "classifier": module.classifier_loss,
    }


def run_of(g: dict[str, Tensor], module: WithAuthorsExtras, **where: int) -> dict[str, Tensor]:
    inputs = [g["traj_x1"], g["traj_x2"]]
    return replay(module, inputs, read, labels=g["traj_y"], steps_per_epoch=2, total_epochs=4, **where)


def test_five_steps(golden):
    g = golden("byol")
    assert g["traj_params"][2] == 8  # total steps
    module = golden_module(g)
    run = run_of(g, module)
    torch.testing.assert_close(run["representation"], g["traj_repr_loss"], rtol=1e-7, atol=0)
    torch.testing.assert_close(run["classifier"], g["traj_classif_loss"], rtol=1e-7, atol=0)
    torch.testing.assert_close(run["encoder"], g["traj_encoder_w_after"], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(run["target"], g["traj_target_encoder_w_after"], rtol=1e-7, atol=1e-9)
    for group in run["lr"].T:
        torch.testing.assert_close(group, g["traj_lr"], rtol=1e-6, atol=0)  # the authors take it in float32
    pair = module.ema_pairs()[0]
    assert [pair.momentum_at(step / 8) for step in range(5)] == pytest.approx(g["traj_tau"].tolist(), rel=1e-9)
    assert not pair.before_forward
    state = module.state_dict()
    for name, value in ours(part(g, "traj_online_final.")).items():
        torch.testing.assert_close(state[name], value, rtol=1e-7, atol=1e-8, msg=name)  # theirs has float32 rates
    for name, value in ours(part(g, "traj_target_final.")).items():
        torch.testing.assert_close(state[target(name)], value, rtol=1e-7, atol=1e-8, msg=name)


def two_ranks(rank: int) -> dict[str, np.ndarray]:
    g = load("byol")
    run = run_of(g, golden_module(g, "sync"), ranks=2, rank=rank)
    return {name: value.numpy() for name, value in run.items()}


@pytest.mark.ddp
def test_five_steps_on_two_ranks_with_the_statistics_of_both(golden):
    g = golden("byol")
    answers = on_ranks(2, two_ranks)
    mean_loss = np.mean([answer["representation"] for answer in answers], axis=0)
    np.testing.assert_allclose(mean_loss, g["w2_traj_repr_loss"], rtol=1e-7)
    for answer in answers:
        np.testing.assert_allclose(answer["encoder"], g["w2_traj_encoder_w_after"], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(answer["target"], g["w2_traj_target_encoder_w_after"], rtol=1e-7, atol=1e-9)


def test_uniformity_is_a_further_term_of_the_projections():
    batch = views(BYOL)
    plain, spread = small(BYOL), small(BYOL, uniformity_weight=0.5)
    e = spread.embed(batch)
    expected = sum(float(representation.uniformity(e[view].detach())) for view in ("z1", "z2")) / 2
    output = spread.contrast(e)
    assert float(output.logs["uniformity"]) == pytest.approx(expected, rel=1e-5)
    assert float(output.loss.detach()) == pytest.approx(
        float(plain.step(batch).loss.detach()) + 0.5 * expected, rel=1e-5
    )
    with pytest.raises(UserError, match="uniformity_weight=-1"):
        small(BYOL, uniformity_weight=-1.0)


def test_no_array_of_the_golden_file_is_forgotten(golden):
    known = ("pred", "targ", "loss", "grad_", "regression", "ema_", "traj_", "w2_traj_")
    schedule = ("lr_params", "lr_step", "lr_value")  # tests/methods/test_optim.py
    assert not [name for name in golden("byol") if not name.startswith(known + schedule)]
