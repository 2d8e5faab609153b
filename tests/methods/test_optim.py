"""Rates and groups against steps worked out by hand and hand-kept lists, mistakes against their sentences."""

import math
import sys
import types

import pytest
import timm
import torch
import torchvision
from torch import nn

from datamodules.errors import UserError
from methods.lars import LARS
from methods.optim import OptimConfig


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


def test_negatives_climb_at_a_rate_of_their_own():
    config = OptimConfig("sgd", lr=0.03, weight_decay=1e-4, options={"momentum": 0.9}, warmup_epochs=0)
    negatives, plain = parameter(2.0), parameter(2.0)
    keys = {"lr": 3.0, "weight_decay": 0.1, "fixed_lr": True, "maximize": True}
    optimizer, scheduler = config.build([{"params": [plain]}, {"params": [negatives], **keys}], 512, 4, 1)
    by_hand, velocity = 2.0, 0.0
    for gradient in (0.5, -0.25):
        negatives.grad = torch.full_like(negatives, gradient)
        optimizer.step()
        scheduler.step()
        velocity = 0.9 * velocity - gradient + 0.1 * by_hand  # of the loss to be raised; the decay still pulls to zero
        by_hand -= 3.0 * velocity
    torch.testing.assert_close(negatives.detach(), torch.full((2, 2), by_hand))
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.06 / 2, 3.0])  # half of the cosine, and none


def test_the_run_says_in_a_line_what_was_built(caplog):
    caplog.set_level("INFO")
    config = OptimConfig("sgd", lr=0.05, weight_decay=1e-4, decay_biases=True, warmup_epochs=0, lr_interval="epoch")
    groups = config.groups(nn.Linear(2, 2)) + config.groups(nn.Linear(2, 2), name="predictor", fixed_lr=True)
    config.build(groups, 512, 100, 10)
    OptimConfig("sgd", schedule="steps", milestones=[12, 16.5]).build(groups, 512, 120, 10)
    OptimConfig("sgd", warmup_epochs=2).build(groups, 512, 20, 10)
    first, cut, second, shorter, _ = caplog.messages
    assert first == (
        "Optimiser SGD: lr 0.05 for 256 images, 0.1 after scaling (linear) to the global batch of 512; weight decay "
        "0.0001 of biases too; warm-up 0 of 100 steps, then cosine to 0 x peak, once an epoch (but for predictor: all "
        "parameters); no further options."
    )
    assert cut == (
        "The run ends at step 120, before all drops of its learning rate: train for longer, or set "
        "--model.optim.milestones lower."
    )
    assert "at step 20, before its learning rate's peak: train for longer, or set --model.optim.warmup_ep" in shorter
    assert "warm-up 100 of 120 steps, then x 0.1 at epochs 12, 16.5 (but for" in second


@pytest.mark.parametrize(
    "settings",
    [{"warmup_epochs": 10}, {"schedule": "steps", "milestones": [3]}, {"lr_interval": "epoch"}],
)
def test_data_of_unknown_length_have_no_epochs(settings):
    groups, steps = [{"params": [parameter()]}], {"optimizer": "sgd", "lr": 0.1, "warmup_epochs": 0}
    with pytest.raises(UserError, match="limit_train_batches"):
        OptimConfig(**steps | settings).build(groups, 256, 100, math.inf)
    optimizer, _ = OptimConfig(**steps).build(groups, 256, 100, math.inf)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_an_empty_data_set_is_left_to_others_to_refuse():
    config = OptimConfig("sgd", lr=0.1, warmup_epochs=0, lr_interval="epoch")
    assert config.build([{"params": [parameter()]}], 256, 0, 0)[0].param_groups[0]["lr"] == 0.1


def names(module: nn.Module, group: str) -> set[str]:
    chosen = {id(p) for g in OptimConfig().groups(module) if g["name"] == group for p in g["params"]}
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
    groups = OptimConfig().groups(module)
    assert sum(len(g["params"]) for g in groups) == 7  # the tied weight once, the frozen ones never
    assert [(g.get("weight_decay"), g.get("adapt")) for g in groups] == [(None, None), (0.0, False)]
    assert [g["name"] for g in OptimConfig().groups(nn.Linear(2, 2, bias=False))] == ["weights"]


def test_groups_of_several_networks_carry_what_they_are_given():
    backbone, projector, predictor = Mixed(), nn.Linear(2, 2), nn.Linear(2, 2)
    projector.weight = backbone.tied.weight  # counted with the backbone
    config = OptimConfig("sgd", lr=0.2, lr_scaling="none", warmup_epochs=0)
    groups = config.groups(backbone, projector) + config.groups(predictor, name="predictor", fixed_lr=True, lr_scale=10)
    assert [len(g["params"]) for g in groups] == [2, 6, 1, 1]
    assert [g["name"] for g in groups[1:3]] == ["biases, norms, tokens", "predictor: weights"]
    optimizer, scheduler = config.build(groups, 256, 2, 1)
    optimizer.step()
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1, 0.1, 2.0, 2.0])
    assert [g["weight_decay"] for g in optimizer.param_groups] == [1e-6, 0.0, 1e-6, 0.0]
    with pytest.raises(UserError, match="more than one parameter group"):
        config.build(config.groups(backbone) + config.groups(projector), 256, 2, 1)


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_every_parameter_decays_where_the_recipe_says_so(optimizer):
    module = Mixed()
    config = OptimConfig(optimizer, lr=0.1, weight_decay=0.5, decay_biases=True, warmup_epochs=0)
    (group,) = config.groups(module)
    assert [id(p) for p in group["params"]] == [id(p) for p in module.parameters() if p.requires_grad]
    built, _ = config.build([group], 256, 9, 1)
    assert [(g["weight_decay"], g.get("adapt", True)) for g in built.param_groups] == [(0.5, True)]
    before = module.norm.weight.detach().clone()
    for p in group["params"]:
        p.grad = torch.zeros_like(p)
    built.step()
    assert (module.norm.weight < before).all()


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
    lars, _ = OptimConfig("LARS").build(OptimConfig().groups(module), 256, 10, 1)
    assert [g["adapt"] for g in lars.param_groups] == [True, False]
    assert [g["weight_decay"] for g in lars.param_groups] == [1e-6, 0.0]
    adam, _ = OptimConfig("adamw").build(OptimConfig().groups(module), 256, 10, 1)
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
    mine, _ = OptimConfig("my_optim.MyLARS").build(OptimConfig().groups(nn.Linear(3, 3)), 256, 9, 1)
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
        ({"start_lr_ratio": -0.5}, "start_lr_ratio=-0.5"),
        ({"step_factor": 10.0}, "step_factor=10.0"),
        ({"milestones": [120, 160]}, "add --model.optim.schedule steps, a cosine has none"),
        ({"schedule": "steps"}, r"steps need rising epochs.*--model.optim.milestones '\[120, 160\]'"),
        ({"schedule": "steps", "warmup_epochs": 0, "milestones": [160, 120]}, "milestones=.160, 120."),
        ({"schedule": "steps", "warmup_epochs": 0, "milestones": [0, 120]}, "milestones=.0, 120."),
        ({"schedule": "steps", "warmup_epochs": 20, "milestones": [15, 30]}, "after the warm-up"),
        ({"schedule": "steps", "milestones": [120], "final_lr_ratio": 0.02}, "final_lr_ratio=0.02 ends a cosine"),
        ({"lr_interval": "epoch"}, "set --model.optim.warmup_epochs 0"),
    ],
)
def test_mistakes_are_named(config, sentence):
    with pytest.raises(UserError, match=sentence):
        OptimConfig(**config).build([{"params": [parameter()]}], 256, 10, 1)


def test_a_setting_that_the_optimiser_would_ignore_is_refused():
    with pytest.raises(UserError, match="maximize"):  # LARS would descend where the method asks it to climb
        OptimConfig("lars").build([{"params": [parameter()], "maximize": True}], 256, 10, 1)
