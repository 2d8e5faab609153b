"""DINO against numbers from the authors' code, and what its parts are for."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from callbacks import MomentumUpdate
from datamodules.errors import UserError
from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.base import StepOutput
from methods.dino import DINO
from methods.distributed import gather
from methods.modules import EMAPair, frozen_copy
from methods.optim import OptimConfig
from methods.schedules import after_warmup, cosine
from tests.support.dino import names, numbers, tiny_vit
from tests.support.methods import small, views, without_norm
from tests.support.ranks import on_ranks
from tests.support.replay import Prepared, quiet_trainer

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}


def dino(**arguments: Any) -> DINO:
    module = small(DINO, **arguments)
    assert isinstance(module, DINO)
    return module


# ------------------------------------------------------------------------------------------- the loss and its state


def golden_dino(K: int) -> DINO:
    g = numbers("loss/")
    start, final, warmup, _ = g["hyper_warmup_temp_teacher_temp_warmup_epochs_epochs"].tolist()
    return dino(
        student_temperature=float(g["hyper_student_temp"]),
        teacher_temperature=final,
        teacher_temperature_start=start,
        teacher_warmup_epochs=int(warmup),
        center_momentum=float(g["hyper_center_momentum"]),
        num_prototypes=K,
    ).double()


def contrast(module: DINO, student: Tensor, teacher: Tensor, epoch: int, step: int) -> tuple[StepOutput, Tensor]:
    """The method's step on recorded logits, whose rows are crop-major; also the gradient in that order."""
    B = len(teacher) // 2
    student = student.clone().requires_grad_()
    module._trainer = SimpleNamespace(current_epoch=epoch, global_step=step)  # pyright: ignore[reportAttributeAccessIssue]
    s, t = (logits.unflatten(0, (-1, B)).transpose(0, 1) for logits in (student, teacher))
    nothing = torch.zeros(B, 1)
    output = module.contrast({"h1": nothing, "h2": nothing, "s": s, "t": t})
    (grad,) = torch.autograd.grad(output.loss, student)
    return output, grad


def test_loss_gradient_and_center_over_three_steps():
    g = numbers("loss/")
    module = golden_dino(K=g["s0_student"].shape[1])
    module.center.value.copy_(g["center_start"][0])
    assert len(g["s0_student"]) == int(g["hyper_ncrops"]) * len(g["s0_teacher"]) // 2
    for i, epoch in enumerate(g["epoch_of_step"].tolist()):
        output, grad = contrast(module, g[f"s{i}_student"], g[f"s{i}_teacher"], epoch, step=i)
        torch.testing.assert_close(output.loss.detach(), g[f"s{i}_value"], **CLOSE)
        torch.testing.assert_close(grad, g[f"s{i}_grad_student"], **CLOSE)
        torch.testing.assert_close(sum(output.logs.values()), g[f"s{i}_value"], **CLOSE)
        module.center.push(output.enqueue["center"])
        torch.testing.assert_close(module.center.at(i + 1), g[f"s{i}_center_after"][0], **CLOSE)


def test_teacher_temperature_of_each_epoch(monkeypatch):
    g, seen = numbers("loss/"), []
    monkeypatch.setattr("methods.dino.teacher_targets", lambda logits, center, T: seen.append(T) or logits)
    module = golden_dino(K=g["s0_student"].shape[1])
    for epoch in range(len(g["teacher_temp_schedule"])):
        contrast(module, g["s0_student"], g["s0_teacher"], epoch, step=0)
    assert seen == pytest.approx(g["teacher_temp_schedule"].tolist(), rel=1e-12)


def on_one_of_two(rank: int) -> dict[str, np.ndarray]:
    g = numbers("tworank/")
    module = golden_dino(K=g["student"].shape[2])
    output, grad = contrast(module, g["student"][rank], g["teacher"][rank], epoch=0, step=0)
    module.center.push(gather(output.enqueue["center"]))
    return {"loss": output.loss.detach().numpy(), "grad": grad.numpy(), "center": module.center.at(1).numpy()}


@pytest.mark.ddp
def test_two_ranks():
    g = numbers("tworank/")
    for rank, answer in enumerate(on_ranks(2, on_one_of_two)):
        np.testing.assert_allclose(answer["loss"], g["loss"][rank], **CLOSE)
        np.testing.assert_allclose(answer["grad"], g["grad_student"][rank], **CLOSE)
        np.testing.assert_allclose(answer["center"], g["center_after"][rank, 0], **CLOSE)


# --------------------------------------------------------------------------------------------------------- networks


def test_crops_through_backbone_and_head():
    g = numbers()
    head = numbers("wrapper/head_param/")
    K, bottleneck = head["last_layer.weight_v"].shape
    module = dino(
        backbone=tiny_vit(), hidden_dim=len(head["mlp.0.weight"]), bottleneck_dim=bottleneck, num_prototypes=K
    ).double()
    for network in (module, module.teacher):
        network.backbone.load_state_dict(numbers("vit/param/"))
        network.projector.load_state_dict(head)
    large, small_ = g["vit/x_global"], g["vit/x_local"]
    crops = Views([large, large.flip(-1)], torch.zeros(4), torch.arange(4), [small_, small_.flip(-1), small_.flip(-2)])
    e = module.embed(crops)
    torch.testing.assert_close(e["s"].transpose(0, 1).flatten(0, 1), g["wrapper/out"], **CLOSE)
    torch.testing.assert_close(e["t"].transpose(0, 1).flatten(0, 1), g["wrapper/out"][:8], **CLOSE)  # still a copy
    torch.testing.assert_close(e["h1"], g["vit/cls_global"], **CLOSE)
    assert not e["t"].requires_grad


def test_teacher_has_no_drop_path_and_batch_norm_in_training_mode():
    config = tiny_vit()
    module = dino(backbone=BackboneConfig(config.name, options=config.options | {"drop_path_rate": 0.5}))
    x = torch.randn(8, 3, 32, 32)
    assert not torch.equal(module.backbone(x), module.backbone(x))
    assert torch.equal(module.teacher(x), module.teacher(x))
    assert all(layer.training for layer in module.teacher.modules())


def test_any_number_of_local_crops():
    batch = views(DINO)
    for count in (0, 1, 3):
        output = dino().step(batch._replace(local_views=batch.local_views[:count]))
        assert output.loss.isfinite()


# ------------------------------------------------------------------------------------------------------ optimisation


def test_what_is_decayed():
    module = dino(head_batch_norm=True)
    weights, rest = module.param_groups()
    by_id = {id(p): name.removeprefix("projector.") for name, p in module.named_parameters()}
    for group, key in ((weights, "regularized"), (rest, "not_regularized")):
        ours = {by_id[id(p)] for p in group["params"]} - {n for n in by_id.values() if n.startswith("backbone.")}
        assert ours == set(names(f"groups/{key}"))
    assert rest["weight_decay"] == 0
    vit: Any = dino(backbone=tiny_vit(), norm_last_layer=False)
    decayed = {id(p) for p in vit.param_groups()[0]["params"]}
    tokens = (vit.backbone.cls_token, vit.backbone.pos_embed, vit.projector.last_layer.weight_g)
    assert all(id(p) in decayed for p in tokens)


def test_students_prototypes_rest_in_the_first_epochs():
    module = dino(freeze_last_layer_epochs=2)
    for epoch, resting in enumerate((True, True, False)):
        module._trainer = SimpleNamespace(current_epoch=epoch)  # pyright: ignore[reportAttributeAccessIssue]
        assert any(p is module.projector.last_layer.weight_v for p in module.resting_parameters()) == resting


def test_schedules():
    g = numbers("schedule/")
    base, final, epochs, steps, warmup, _ = g["lr_args_base_final_epochs_iters_warmup_start"].tolist()
    total, W = int(epochs * steps), int(warmup * steps)
    theirs = [  # from zero to the peak with both ends, which then comes twice
        base * after_warmup(step, partial(cosine, start=W, end=total, final_ratio=final / base), W - 1)
        for step in range(total)
    ]
    assert theirs == pytest.approx(g["lr"].tolist(), rel=1e-9)
    wd, final_wd = g["wd_args_base_final_epochs_iters_warmup_start"][:2].tolist()
    optim = OptimConfig(
        *("adamw", base, wd),
        final_weight_decay=final_wd,
        warmup_epochs=warmup,
        final_lr_ratio=final / base,
        lr_scaling="none",
    )
    groups = [{"params": [nn.Parameter(torch.ones(1))]}, {"params": [nn.Parameter(torch.ones(1))], "weight_decay": 0.0}]
    optimizer, scheduler = optim.build(groups, 256, total_steps=total, steps_per_epoch=steps)
    lr, decays, undecayed = [], [], []
    for _ in range(total):
        decayed, other = optimizer.param_groups
        lr.append(decayed["lr"])
        decays.append(decayed["weight_decay"])
        undecayed.append(other["weight_decay"])
        optimizer.step()
        scheduler.step()
    assert decays == pytest.approx(g["wd"].tolist(), rel=1e-9)
    assert not any(undecayed)
    assert lr[W:] == pytest.approx(g["lr"][W:].tolist(), rel=1e-9)
    assert lr[:W] == pytest.approx((g["lr"][:W] * (W - 1) / W).tolist(), rel=1e-9)  # our peak comes one step later
    m, final_m = g["momentum_args_base_final_epochs_iters_warmup_start"][:2].tolist()
    (pair,) = dino(teacher_momentum=m).ema_pairs()
    assert pair.final_momentum == final_m
    assert not pair.before_forward
    assert [pair.momentum_at(step / total) for step in range(total)] == pytest.approx(g["momentum"].tolist(), rel=1e-9)


def test_teacher_moves_after_the_step():
    g = numbers("ema/")
    student = nn.Linear(3, 2, bias=False).double()
    teacher = frozen_copy(student)
    student.weight.data, teacher.weight.data = g["student_w"], g["teacher_w"]  # pyright: ignore[reportAttributeAccessIssue]
    m = float(g["m"])
    module: Any = SimpleNamespace(ema_pairs=lambda: [EMAPair((student,), teacher, m, m)])
    trainer: Any = SimpleNamespace(global_step=1, estimated_stepping_batches=10)
    MomentumUpdate().on_train_batch_end(trainer, module)
    torch.testing.assert_close(teacher.weight.data, g["teacher_w_after"], **CLOSE)


def test_accumulated_batches_are_one_large_batch():
    """Center, teacher and weights; a center that moved with each batch would tell."""
    optim = OptimConfig("sgd", lr=0.5, lr_scaling="none", warmup_epochs=0, options={"momentum": 0.9})
    batches = [views(DINO, count=8, seed=seed) for seed in range(3)]
    halves = [batch.rows(start, start + 4) for batch in batches for start in (0, 4)]
    states = []
    for data, window in ((batches, 1), (halves, 2)):
        module = without_norm(dino(optim=optim, freeze_last_layer_epochs=0, teacher_momentum=0.9))
        module.double()
        quiet_trainer([], accumulate_grad_batches=window, precision="64-true", limit_val_batches=0).fit(
            module, datamodule=Prepared(data, data, None)
        )
        module.center.at(-1)  # the last step's outputs too
        states.append(module.state_dict())
    for name, value in states[0].items():
        if value.is_floating_point():
            torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-12, msg=name)
    assert states[0]["center.value"].abs().max() > 1e-3


@pytest.mark.parametrize(
    "arguments",
    [{"teacher_temperature": 0.0}, {"center_momentum": 1.5}, {"teacher_warmup_epochs": -1}, {"num_prototypes": 0}],
)
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(UserError, match="DINO"):
        dino(**arguments)
