"""ReLIC against its equation in numbers, the authors' schedules, and what the paper says of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.errors import UserError
from methods.losses import info_nce
from methods.optim import OptimConfig
from methods.relic import ReLIC
from tests.support.methods import small, views


def loss_and_gradients(module: ReLIC, online: list[Tensor], target: list[Tensor] | None) -> list[Tensor]:
    """Loss, contrast, invariance and the gradients of the two online views, from raw vectors [B, d]."""
    raw = [v.clone().requires_grad_() for v in online]
    o1, o2 = (F.normalize(v, dim=1) for v in raw)
    t1, t2 = (o1, o2) if target is None else (F.normalize(v, dim=1) for v in target)
    h1, h2 = online
    output = module.contrast({"h1": h1, "h2": h2, "o1": o1, "o2": o2, "t1": t1, "t2": t2})
    grads = torch.autograd.grad(output.loss, raw)
    return [output.loss.detach(), output.logs["contrast"], output.logs["invariance"], *grads]


@pytest.mark.parametrize("case", ["eq3", "eq3_stopgrad", "eq3_noema"])
def test_equals_equation_3(golden, case):
    g = golden("relic")
    module = small(
        ReLIC,
        temperature=float(g["eq3/tau"]),
        alpha=float(g["eq3/alpha"]),
        stop_gradient=case == "eq3_stopgrad",
        use_teacher=case != "eq3_noema",
    )
    if case == "eq3_noema":
        online, target, names = [g[f"{case}/view{v}"] for v in (1, 2)], None, ["grad_view1", "grad_view2"]
    else:
        online, target = ([g[f"eq3/{side}{v}"] for v in (1, 2)] for side in ("online", "target"))
        names = ["grad_online1", "grad_online2"]
    loss, contrast, invariance, *grads = loss_and_gradients(module, online, target)
    torch.testing.assert_close(loss, g[f"{case}/total"], rtol=1e-9, atol=0)
    if case != "eq3_noema":
        torch.testing.assert_close(contrast, g["eq3/contrast_12"] + g["eq3/contrast_21"], rtol=1e-9, atol=0)
        torch.testing.assert_close(invariance, g["eq3/kl_12_21"] + g["eq3/kl_21_12"], rtol=1e-9, atol=0)
    for name, grad in zip(names, grads, strict=True):
        torch.testing.assert_close(grad, g[f"{case}/{name}"], rtol=1e-9, atol=1e-12)


def test_target_moves_by_the_authors_schedule(golden):
    g = golden("relic")
    (pair,) = small(ReLIC, teacher_momentum=float(g["ema/base"])).ema_pairs()
    assert not pair.before_forward
    progress = (g["ema/steps"] / g["ema/max_steps"]).tolist()
    ours = torch.tensor([pair.momentum_at(p) for p in progress], dtype=torch.float64)
    torch.testing.assert_close(ours, g["ema/official_target_ema"], rtol=1e-9, atol=0)
    torch.testing.assert_close(ours, g["ema/reference_update_gamma_float32"], rtol=1e-6, atol=0)


def test_learning_rate_is_the_authors(golden):
    g = golden("relic")
    batch, lr, total, warmup = g["lr/batch_base_total_warmup"].tolist()
    config = OptimConfig("lars", lr=lr, weight_decay=1.5e-6, options={"momentum": 0.9}, warmup_epochs=warmup)
    groups = config.groups(nn.Linear(2, 2))
    optimizer, schedule = config.build(groups, int(batch), total_steps=int(total), steps_per_epoch=1)
    rates = []
    for _ in range(int(total)):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    ours = torch.tensor(rates, dtype=torch.float64)[g["lr/steps"]]
    torch.testing.assert_close(ours, g["lr/official"], rtol=1e-6, atol=1e-12)  # its warm-up is in float32


def test_without_invariance_it_is_info_nce():
    module, batch = small(ReLIC, alpha=0.0), views(ReLIC)
    e = module.embed(batch)
    expected = info_nce(e["o1"], e["t2"], 0.3) + info_nce(e["o2"], e["t1"], 0.3)
    torch.testing.assert_close(module.contrast(e).loss, expected)


def test_alike_views_have_no_invariance_to_mend():
    module, batch = small(ReLIC), views(ReLIC)
    one = batch.global_views[0]
    assert float(module.step(batch._replace(global_views=[one, one])).logs["invariance"]) == pytest.approx(0, abs=1e-6)


def test_target_is_byols_and_gets_no_gradient():
    module = small(ReLIC)
    assert module.teacher is not None
    assert [type(layer) for layer in module.predictor] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    e = module.embed(views(ReLIC))
    assert not e["t1"].requires_grad
    assert not e["t2"].requires_grad
    with torch.no_grad():
        module.teacher.projector[0].weight.mul_(-1)
    moved = module.embed(views(ReLIC))
    assert torch.equal(moved["o1"], e["o1"])
    assert not torch.allclose(moved["t1"], e["t1"])


def test_without_target_the_critic_learns_from_both_sides():
    module = small(ReLIC, use_teacher=False, hidden_dim=32, out_dim=4)
    widths = [layer.out_features for layer in module.projector if isinstance(layer, nn.Linear)]
    assert widths == [32, 16, 8, 4, 4]
    assert sum(isinstance(layer, nn.BatchNorm1d) for layer in module.projector) == 5
    assert isinstance(module.projector[-1], nn.BatchNorm1d)
    assert module.ema_pairs() == []
    module.step(views(ReLIC)).loss.backward()
    assert not [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]


def test_alpha_brings_the_distributions_together():
    def left_after(alpha: float) -> float:
        module, batch = small(ReLIC, alpha=alpha), views(ReLIC)
        optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=3e-3)
        for _ in range(20):
            optimizer.zero_grad()
            module.step(batch).loss.backward()
            optimizer.step()
        return float(module.step(batch).logs["invariance"])

    assert left_after(5.0) < 0.7 * left_after(0.0)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"alpha": -1.0}, {"hidden_dim": 4}, {"out_dim": 0}])
def test_refuses_what_cannot_be(wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))}="):
        small(ReLIC, **wrong)
