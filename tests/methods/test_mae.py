"""MAE against numbers from the authors' code, and what masking is for."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.errors import UserError
from methods.backbones import BackboneConfig
from methods.mae import MAE
from methods.modules.masked_vit import encode_visible
from methods.modules.masking import random_mask
from methods.optim import OptimConfig
from tests.support.golden import GOLDENS
from tests.support.methods import small, views

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def golden_module(g: dict[str, Tensor], norm_pix: bool) -> MAE:
    """Our class with the authors' weights and sizes."""
    size = {name.removeprefix("hp_"): value.item() for name, value in g.items() if value.ndim == 0 and "hp_" in name}
    options = {name: size[name] for name in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")}
    module = MAE(
        backbone=BackboneConfig("timm/vit_tiny_patch16_224", options=options),
        mask_ratio=size["mask_ratio"],
        norm_pix=norm_pix,
        decoder_dim=size["decoder_embed_dim"],
        decoder_depth=size["decoder_depth"],
        decoder_heads=size["decoder_num_heads"],
    ).double()
    assert module.backbone.norm.eps == module.decoder.norm.eps == size["layernorm_eps"]
    weights = {ours(name.removeprefix("w_")): value for name, value in g.items() if name.startswith("w_")}
    for positions in ("backbone.pos_embed", "decoder.pos_embed"):  # ours from the start
        torch.testing.assert_close(module.get_parameter(positions).float(), weights[positions].float())
    module.load_state_dict(weights, strict=True)
    return module


def ours(name: str) -> str:
    """An authors' parameter name in our words."""
    if name == "mask_token":
        return "decoder.mask_token"
    return name.replace("decoder_", "decoder.", 1) if name.startswith("decoder_") else f"backbone.{name}"


def with_noise(module: MAE, noise: Tensor) -> MAE:
    """The module whose masks come from recorded noise."""
    module.draw = lambda index, stream, count: noise[index]
    return module


def golden_views(g: dict[str, Tensor]) -> Any:
    index = torch.arange(len(g["in_images"]))
    return views(MAE)._replace(global_views=[g["in_images"]], label=index, index=index)


@pytest.mark.parametrize(("norm_pix", "kind"), [(False, "raw"), (True, "norm")])
def test_loss_and_gradients(golden, norm_pix, kind):
    g = golden("mae")
    module = with_noise(golden_module(g, norm_pix), g["in_noise"])
    output = module.step(golden_views(g))
    output.loss.backward()
    torch.testing.assert_close(output.loss.detach(), g[f"out_loss_{kind}"], **CLOSE)
    torch.testing.assert_close(module.decoder.mask_token.grad, g[f"out_grad_mask_token_{kind}"], **CLOSE)
    kernel = module.backbone.get_parameter("patch_embed.proj.weight")
    torch.testing.assert_close(kernel.grad, g[f"out_grad_patch_proj_{kind}"], **CLOSE)


def test_encoder_and_decoder(golden):
    g = golden("mae")
    module = golden_module(g, norm_pix=True)
    mask = random_mask(g["in_noise"], module.mask_ratio)
    tokens = encode_visible(module.backbone, g["in_images"], mask.kept)
    torch.testing.assert_close(tokens, g["out_latent"], **CLOSE)
    torch.testing.assert_close(module.decoder(tokens, mask.restore), g["out_pred"], **CLOSE)
    features = with_noise(module, g["in_noise"]).step(golden_views(g)).features
    assert torch.equal(features, tokens[:, 0])  # the class token, as timm pools it


def test_what_decays(golden):
    g = golden("mae")
    with np.load(GOLDENS / "mae.npz") as arrays:
        names = arrays["out_wd_names"].tolist()
    expected = {ours(name): decay for name, decay in zip(names, g["out_wd_value"].tolist(), strict=True)}
    module = golden_module(g, norm_pix=True)
    config = OptimConfig("adamw", lr=1.5e-4, weight_decay=max(expected.values()))
    optimizer, _ = config.build(module.param_groups(), global_batch_size=4096, total_steps=99, steps_per_epoch=9)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in module.named_parameters() if p.requires_grad} == expected


def test_schedule(golden):
    g = golden("mae")
    peak, end, warmup, epochs, lr_scale = g["hp_sched"].tolist()
    steps = 1000  # an epoch
    config = OptimConfig("adamw", lr=peak, lr_scaling="none", warmup_epochs=warmup, final_lr_ratio=end / peak)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], **keys} for keys in ({}, {"lr_scale": lr_scale})]
    _, scheduler = config.build(groups, 4096, epochs * steps, steps)
    for epoch, expected in zip(g["in_sched_epoch"].tolist(), g["out_sched_lr"].tolist(), strict=True):
        step = round(epoch * steps)
        assert step == pytest.approx(epoch * steps)
        rates = [curve(step) * base for curve, base in zip(scheduler.lr_lambdas, scheduler.base_lrs, strict=True)]
        assert rates == pytest.approx(expected, rel=1e-9, abs=1e-15)


# ------------------------------------------------------------------------------------- fine-tuning, as timm has it


def test_timms_layer_decay_is_the_authors(golden):
    from timm.models.vision_transformer import VisionTransformer
    from timm.optim import param_groups_layer_decay

    g = golden("mae")
    with np.load(GOLDENS / "mae.npz") as arrays:
        names = arrays["out_lrd_names"].tolist()
    size = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "num_heads": 4, "depth": int(g["hp_lrd_depth"])}
    network = VisionTransformer(**size, global_pool="avg", num_classes=10)
    decay = float(g["hp_layer_decay"])
    groups = param_groups_layer_decay(network, 0.05, network.no_weight_decay(), layer_decay=decay)
    settings = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    actual = {name: settings[id(p)] for name, p in network.named_parameters()}
    expected = dict(zip(names, zip(g["out_lrd_scale"].tolist(), g["out_lrd_wd"].tolist(), strict=True), strict=True))
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert actual[name] == pytest.approx(values, rel=1e-9), name


def test_timm_resizes_positions_as_the_authors_do_unless_antialiased(golden):
    from timm.layers import resample_abs_pos_embed

    g = golden("mae")
    side = int(g["hp_interp_grid"])
    resized = resample_abs_pos_embed(g["in_interp_pos"], [side, side], antialias=False)
    torch.testing.assert_close(resized, g["out_interp_pos"], rtol=1e-5, atol=1e-5)  # timm resizes in float32


# ------------------------------------------------------------------------------------------------------- behaviour


def tiny(**arguments: Any) -> MAE:
    module = small(MAE, **arguments)
    assert isinstance(module, MAE)
    return module


def masks(module: MAE, index: Tensor) -> Tensor:
    """[B, L] bool, what `step` would hide."""
    return random_mask(module.draw(index, 0, module.num_patches), module.mask_ratio).hidden


def test_masks_differ_between_images_and_not_between_ranks():
    module, index = tiny(), torch.arange(40)
    hidden = masks(module, index)
    assert (hidden.sum(1) == 12).all()
    assert len({tuple(row.tolist()) for row in hidden}) > 35
    assert torch.equal(masks(module, index[1::2]), hidden[1::2])


def test_the_prediction_of_hidden_patches_does_not_see_them():
    module, batch = tiny(norm_pix=False), views(MAE)
    (x,) = batch.global_views
    hidden = masks(module, batch.index)
    pixels = hidden.view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    changed = batch._replace(global_views=[torch.where(pixels, torch.randn_like(x), x)])
    assert torch.equal(module.step(changed).features, module.step(batch).features)
    assert not torch.equal(module.step(changed).loss, module.step(batch).loss)


def test_evaluation_sees_all_patches():
    module, batch = tiny(), views(MAE)
    (x,) = batch.global_views
    features = module(x)
    for row, column in [(0, 0), (1, 3), (3, 3)]:
        changed = x.clone()
        changed[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
        assert (module(changed) - features).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("norm_pix", [False, True])
def test_reconstructions_are_the_same_each_time_and_true_where_visible(norm_pix, monkeypatch):
    module, batch = tiny(norm_pix=norm_pix), views(MAE)
    (x,) = batch.global_views
    result = module.reconstruct(batch)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert all(torch.equal(a, b) for a, b in zip(module.reconstruct(batch)[:3], result[:3], strict=True))
    visible = result.given == x
    assert visible.double().mean() == pytest.approx(0.25, abs=0.01)
    assert not result.given[~visible].any()
    torch.testing.assert_close(result.made[visible], x[visible])
    if norm_pix:
        assert "true one" in result.caption
    else:
        torch.testing.assert_close(result.error, (result.made - x)[~visible].square().mean())


def test_reconstructions_get_better():
    module, batch = tiny(norm_pix=False), views(MAE)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=5e-3)
    before = module.reconstruct(batch).error
    for _ in range(60):
        optimizer.zero_grad()
        module.step(batch).loss.backward()
        optimizer.step()
    assert module.reconstruct(batch).error < 0.8 * before


@pytest.mark.parametrize("ratio", [0.0, 0.95, 1.0])
def test_all_or_nothing_hidden_is_refused(ratio):
    with pytest.raises(UserError, match="of 16 patches visible"):
        tiny(mask_ratio=ratio)


def test_a_decoder_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="decoder_heads=3"):
        tiny(decoder_heads=3)
    with pytest.raises(UserError, match="divisible by 4"):
        tiny(decoder_dim=6)
