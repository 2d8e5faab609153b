"""Schedule against the authors' numbers, groups against a hand-kept list, mistakes against their sentences."""

import math
import sys
import types

import pytest
import timm
import torch
import torchvision
from torch import nn

from datamodules.errors import UserError
from methods import SimCLR
from methods.lars import LARS
from methods.optim import OptimConfig, split_decay, warmup_cosine
from tests.support.methods import small, views
from tests.support.replay import Prepared, quiet_trainer


@pytest.mark.parametrize("run", ["lin", "sqrt", "cifar"])
def test_schedule_equals_simclrs_code(golden, run):
    g = golden("simclr")
    base, batch, epochs, warmup_epochs, images, sqrt = g[f"sched_{run}_params"].tolist()
    # Their square-root form is 0.075 * sqrt(batch); ours states the rate for 256 images.
    config = OptimConfig(lr=base * math.sqrt(256), lr_scaling="sqrt") if sqrt else OptimConfig(lr=base)
    warmup, total = math.floor(warmup_epochs * images / batch), math.floor(images * epochs / batch) + 1
    factors = [warmup_cosine(int(step), warmup, total) for step in g[f"sched_{run}_step"]]
    rates = config.peak_lr(int(batch)) * torch.tensor(factors, dtype=torch.float64)
    torch.testing.assert_close(rates, g[f"sched_{run}_lr"], rtol=1e-5, atol=1e-6)


def test_ends_and_middle_of_the_schedule():
    assert [warmup_cosine(s, 4, 12, 0.1) for s in (0, 1, 4)] == [0, 0.25, 1]
    assert warmup_cosine(8, 4, 12, 0.1) == pytest.approx(0.55)  # half of the cosine
    assert warmup_cosine(12, 4, 12, 0.1) == warmup_cosine(99, 4, 12, 0.1) == pytest.approx(0.1)
    assert warmup_cosine(0, 0, 12) == 1
    assert {warmup_cosine(s, 4, 12, 1.0) for s in range(4, 15)} == {1}
    assert [warmup_cosine(s, 4, math.inf) for s in (2, 4, 10**9)] == [0.5, 1, 1]


@pytest.mark.parametrize(("scaling", "factor"), [("linear", 4), ("sqrt", 2), ("none", 1)])
def test_rate_grows_with_the_batch(scaling, factor):
    assert OptimConfig(lr=0.3, lr_scaling=scaling).peak_lr(1024) == pytest.approx(0.3 * factor)
    assert OptimConfig(lr=0.3, lr_scaling=scaling, lr_base_batch=512).peak_lr(512) == pytest.approx(0.3)


def parameter(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.full((2, 2), value))


def test_groups_follow_their_own_rates():
    config = OptimConfig("sgd", lr=0.2, lr_scaling="none", weight_decay=0.0, warmup_epochs=0.5)
    plain, head, predictor, adversary = (parameter() for _ in range(4))
    groups = [
        {"params": [plain]},
        {"params": [head], "lr_scale": 10.0, "name": "head"},
        {"params": [predictor], "fixed_lr": True, "lr_scale": 2.0},
        {"params": [adversary], "maximize": True},
    ]
    optimizer, scheduler = config.build(groups, 256, total_steps=10, steps_per_epoch=4)
    expected = {"plain": 1.0, "predictor": 1.0, "adversary": 1.0}
    for step in range(10):
        rate = 0.2 * (step / 2 if step < 2 else (1 + math.cos(math.pi * (step - 2) / 8)) / 2)
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([rate, 10 * rate, 0.4, rate])
        for p in (plain, head, predictor, adversary):
            p.grad = torch.ones_like(p)
        optimizer.step()
        scheduler.step()
        expected["plain"] -= rate
        expected["predictor"] -= 0.4
        expected["adversary"] += rate  # climbs
    for p, name in ((plain, "plain"), (predictor, "predictor"), (adversary, "adversary")):
        torch.testing.assert_close(p.detach(), torch.full((2, 2), expected[name]))


def test_without_an_end_the_rate_stays():
    optimizer, scheduler = OptimConfig("sgd", lr=1.0, warmup_epochs=2).build(
        [{"params": [parameter()]}], 256, math.inf, 3
    )
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1])


def test_data_of_unknown_length_have_no_warm_up():
    groups = [{"params": [parameter()]}]
    with pytest.raises(UserError, match="limit_train_batches"):
        OptimConfig("sgd", warmup_epochs=10).build(groups, 256, 100, math.inf)
    optimizer, _ = OptimConfig("sgd", lr=0.1, warmup_epochs=0).build(groups, 256, 100, math.inf)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_warm_up_epoch_has_the_steps_that_accumulation_leaves():
    module = small(SimCLR, optim=OptimConfig("sgd", lr=1.0, lr_scaling="none", warmup_epochs=1))
    batch = views(SimCLR, 4)
    trainer = quiet_trainer([], max_epochs=2, accumulate_grad_batches=2)
    trainer.fit(module, datamodule=Prepared([batch] * 5, [batch], None))  # 5 batches in windows of 2: 3 steps an epoch
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert [scheduler.lr_lambdas[0](step) for step in (0, 1, 3, 6)] == pytest.approx([0, 1 / 3, 1, 0])


def test_a_run_that_counts_steps_knows_its_epochs():
    module = small(SimCLR, optim=OptimConfig("sgd", lr=1.0, lr_scaling="none", warmup_epochs=2))
    batch = views(SimCLR, 4)
    trainer = quiet_trainer([], max_epochs=-1, max_steps=7)
    trainer.fit(module, datamodule=Prepared([batch] * 3, [batch], None))
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert [scheduler.lr_lambdas[0](step) for step in (0, 3, 6, 7)] == pytest.approx([0, 1 / 2, 1, 0])


def names(module: nn.Module, group: str) -> set[str]:
    chosen = {id(p) for g in split_decay(module) if g["name"] == group for p in g["params"]}
    return {name for name, p in module.named_parameters() if id(p) in chosen}


class Mixed(nn.Module):
    """A little of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.tied = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2, bias=False)
        self.again = self.tied
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.mask_token, self.decoder_pos_embed = nn.Parameter(torch.ones(1, 1, 2)), nn.Parameter(torch.ones(1, 5, 2))


def test_biases_norms_and_tables_do_not_decay():
    module = Mixed()
    assert names(module, "weights") == {"conv.weight", "tied.weight"}
    rest = {"conv.bias", "norm.weight", "norm.bias", "mask_token", "decoder_pos_embed"}
    assert names(module, "biases, norms, tokens") == rest
    groups = split_decay(module)
    assert sum(len(g["params"]) for g in groups) == 7  # the tied weight once, the frozen ones never
    assert [(g.get("weight_decay"), g.get("adapt")) for g in groups] == [(None, None), (0.0, False)]
    assert [g["name"] for g in split_decay(nn.Linear(2, 2, bias=False))] == ["weights"]


def libraries() -> dict[str, nn.Module]:
    block = torchvision.models.convnext.CNBlockConfig(8, None, 2)
    return {
        "timm_vit": timm.models.VisionTransformer(
            32, 16, embed_dim=8, depth=1, num_heads=2, reg_tokens=2, num_classes=0
        ),
        "timm_swin": timm.models.SwinTransformer(
            img_size=32, patch_size=4, embed_dim=8, depths=(1,), num_heads=(2,), window_size=4, num_classes=0
        ),
        "torchvision_vit": torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 16),
        "torchvision_convnext": torchvision.models.ConvNeXt([block]),
    }


@pytest.mark.parametrize("library", ["timm_vit", "timm_swin", "torchvision_vit", "torchvision_convnext"])
def test_only_matrices_and_kernels_of_the_libraries_decay(library):
    decayed = names(libraries()[library], "weights")
    assert decayed
    assert all(name.endswith("weight") for name in decayed), decayed  # in_proj_weight among them; no token, no table


def test_lars_adapts_and_others_are_not_told():
    module = nn.Linear(3, 3)
    lars, _ = OptimConfig("LARS").build(split_decay(module), 256, 10, 1)
    assert [g["adapt"] for g in lars.param_groups] == [True, False]
    assert [g["weight_decay"] for g in lars.param_groups] == [1e-6, 0.0]
    adam, _ = OptimConfig("adamw").build(split_decay(module), 256, 10, 1)
    assert all("adapt" not in g for g in adam.param_groups)


def test_optimisers_by_class_path(monkeypatch):
    radam, _ = OptimConfig("torch.optim.RAdam", options={"betas": [0.8, 0.9]}).build(
        [{"params": [parameter()]}], 256, 9, 1
    )
    assert type(radam) is torch.optim.RAdam
    assert radam.param_groups[0]["betas"] == [0.8, 0.9]

    class MyLARS(LARS):
        """Somebody's own; must be told of the exclusions as well."""

    monkeypatch.setitem(sys.modules, "my_optim", types.SimpleNamespace(MyLARS=MyLARS))
    mine, _ = OptimConfig("my_optim.MyLARS").build(split_decay(nn.Linear(3, 3)), 256, 9, 1)
    assert [g["adapt"] for g in mine.param_groups] == [True, False]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"optimizer": "adamww"}, "did you mean 'adamw'"),
        ({"optimizer": "torch.optim.Nothing"}, "class path"),
        ({"optimizer": "torch.nn.Linear"}, "class path"),
        ({"optimizer": "sgd", "options": {"momentun": 0.9}}, "SGD takes no 'momentun', did you mean 'momentum'"),
        ({"optimizer": "sgd", "options": {"momentum": -1.0}}, "momentum"),
        ({"optimizer": "lars", "options": {"momentum": 1.0}}, "momentum < 1"),
        ({"optimizer": "adam", "options": {"betas": 0.9}}, "adam"),
        ({"options": {"lr": 1.0}}, "options holds lr"),
        ({"lr": -0.1}, "lr=-0.1"),
        ({"lr_base_batch": 0}, "lr_base_batch=0"),
        ({"final_lr_ratio": 1.5}, "final_lr_ratio=1.5"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1"),
    ],
)
def test_mistakes_are_named(config, sentence):
    with pytest.raises(UserError, match=sentence):
        OptimConfig(**config).build([{"params": [parameter()]}], 256, 10, 1)


def test_a_setting_that_the_optimiser_would_ignore_is_refused():
    with pytest.raises(UserError, match="maximize"):  # LARS would descend where the method asks it to climb
        OptimConfig("lars").build([{"params": [parameter()], "maximize": True}], 256, 10, 1)
