"""JigClu against numbers from the authors' code."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.jigclu import BASE_TEMPERATURE, JigClu
from methods.losses.supcon import supervised_contrast
from methods.modules.patches import pool_cells
from methods.optim import OptimConfig
from tests.support.golden import load
from tests.support.methods import small
from tests.support.ranks import on_ranks

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-13}
HEADS = {"encoder.fc_clu.0.": "projector.0.", "encoder.fc_clu.2.": "projector.2.", "encoder.fc_loc.": "locator."}
NAMES = {"encoder.conv.": "backbone.conv.", **HEADS}  # the authors' -> ours


class OneConv(nn.Module):
    """The goldens' stand-in for a ResNet."""

    feature_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.layer4 = nn.Conv2d(3, 5, 3, padding=1), nn.GELU()

    def forward_features(self, images: Tensor) -> Tensor:
        return self.layer4(self.conv(images))


class Pixels(nn.Module):
    """A network that gives its picture back."""

    feature_dim = 3
    layer4 = None

    def forward_features(self, images: Tensor) -> Tensor:
        return images


def golden_module(backbone: type[nn.Module], parameters: dict[str, Tensor], temperature: float) -> JigClu:
    """The method with recorded weights."""
    state = {}
    for name, value in parameters.items():
        theirs = next(prefix for prefix in NAMES if name.startswith(prefix))
        state[NAMES[theirs] + name.removeprefix(theirs)] = value
    out_dim, hidden_dim = state["projector.2.weight"].shape
    config = BackboneConfig(f"tests.methods.test_jigclu.{backbone.__name__}")
    module = JigClu(temperature, hidden_dim, out_dim, backbone=config).double()
    module.load_state_dict(state)
    return module


def entries(g: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in g.items() if name.startswith(prefix)}


def deal_as_recorded(module: JigClu, permutation: Tensor) -> None:
    """From now on the draws of the images 0 ... N - 1 are such that they are dealt by this permutation."""
    draws = torch.empty(len(permutation)).scatter_(0, permutation, torch.arange(len(permutation)) / 1024)
    object.__setattr__(module, "draw", lambda index, stream, count: draws.view(count, -1).T[index])


def batch(crops: Tensor, index: Tensor | None = None) -> Views:
    """Views of recorded crops [corner, B, 3, s, s]."""
    index = torch.arange(crops.shape[1]) if index is None else index
    return Views(list(crops), torch.full_like(index, -1), index)


def maps_of(module: JigClu) -> list[Tensor]:
    """From now on keeps the montages that are encoded, and what comes out, [B, 4, D]."""
    seen: list[Tensor] = []
    encode = module.encode

    def watched(montages: Tensor) -> Tensor:
        features = encode(montages)
        features.retain_grad() if features.requires_grad else None
        seen.extend((montages, features))
        return features

    object.__setattr__(module, "encode", watched)
    return seen


def down_the_columns(cells: Tensor) -> Tensor:
    """Recorded [B, D, row, column] as [B, 4, D]."""
    return cells.permute(0, 3, 2, 1).flatten(1, 2)


def test_montages(golden):
    g = golden("jigclu")
    module = small(JigClu).double()
    deal_as_recorded(module, g["montage/permutation"])
    seen = maps_of(module)
    module.step(batch(g["montage/crops"]))
    assert len(seen[0]) == g["montage/n"]
    assert torch.equal(seen[0], g["montage/montages"])


def test_a_whole_step(golden):
    g = golden("jigclu")
    module = golden_module(OneConv, entries(g, "step/param/"), float(g["step/temperature"]))
    deal_as_recorded(module, g["step/permutation"])
    seen = maps_of(module)
    output = module.step(batch(g["step/crops"]))
    output.loss.backward()

    torch.testing.assert_close(seen[1], down_the_columns(g["step/pooled_2x2_features"]), **CLOSE)
    torch.testing.assert_close(seen[1].grad, down_the_columns(g["step/grad_pooled_2x2_features"]), **CLOSE)
    torch.testing.assert_close(output.logs["cluster_loss"], g["step/loss_cluster"], **CLOSE)
    torch.testing.assert_close(output.logs["location_loss"], g["step/loss_location"], **CLOSE)
    torch.testing.assert_close(output.loss, g["step/loss_cluster"] + g["step/loss_location"], **CLOSE)
    grads = {name: p.grad for name, p in module.named_parameters()}
    expected = entries(g, "step/grad/")
    assert len(grads) == len(expected)
    for name, grad in expected.items():
        theirs = next(prefix for prefix in NAMES if name.startswith(prefix))
        torch.testing.assert_close(grads[NAMES[theirs] + name.removeprefix(theirs)], grad, **CLOSE)


@pytest.mark.parametrize("i", range(3))
def test_cluster_loss(golden, i):
    g = golden("jigclu")
    z = g["cluster/z"].clone().requires_grad_()
    siblings = g["cluster/labels"][:, None] == g["cluster/labels"]
    T = float(g["cluster/temperatures"][i])
    loss = supervised_contrast(F.normalize(z, dim=1)[:, None], siblings, T, BASE_TEMPERATURE)
    loss.backward()
    torch.testing.assert_close(loss, g[f"cluster/t{i}_value"], **CLOSE)
    torch.testing.assert_close(z.grad, g[f"cluster/t{i}_grad_z"], **CLOSE)


def test_pooling(golden):
    g = golden("jigclu")
    torch.testing.assert_close(pool_cells(g["pool/x"], 2), down_the_columns(g["pool/y"]), **CLOSE)


def two_ranks(rank: int) -> dict[str, np.ndarray]:
    g = load("jigclu")
    parameters = {name: value[rank] for name, value in entries(g, "tworank/param/").items()}
    module = golden_module(Pixels, parameters, float(g["step/temperature"]))
    deal_as_recorded(module, g["tworank/permutation"][rank])
    seen = maps_of(module)
    crops = g["tworank/crops"][rank]
    output = module.step(batch(crops, torch.arange(2) + 2 * rank))
    values = {"montages": seen[0], "features": output.features, "means": crops.mean((0, 3, 4))}
    return {name: value.numpy() for name, value in (output.logs | values).items()}


@pytest.mark.ddp
def test_two_ranks_share_their_crops(golden):
    """Each rank takes its own anchors; the authors let each take all, which is our mean."""
    g = golden("jigclu")
    assert g["tworank/n_total"].tolist() == [4, 4]
    answers = on_ranks(2, two_ranks)
    for rank, answer in enumerate(answers):
        assert np.array_equal(answer["montages"], g["tworank/montages"][rank])
        np.testing.assert_allclose(answer["features"], answer["means"], **CLOSE)
        for name in ("cluster", "location"):
            mean = np.mean([answer[f"{name}_loss"] for answer in answers])
            np.testing.assert_allclose(mean, g[f"tworank/loss_{name}"][rank], **CLOSE)


def test_learning_rates(golden):
    g = golden("jigclu")
    lr, minimum, epochs = g["schedule/args_lr_min_epochs"].tolist()
    optim = OptimConfig("sgd", lr=lr, warmup_epochs=0, final_lr_ratio=minimum, lr_interval="epoch", decay_biases=True)
    groups = small(JigClu, optim=optim).param_groups()
    optimizer, schedule = optim.build(groups, 256, total_steps=int(epochs) * 3, steps_per_epoch=3)
    rates = []
    for _ in range(int(epochs) * 3):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    by_epoch = torch.tensor(rates, dtype=torch.float64).view(-1, 3)
    torch.testing.assert_close(by_epoch, g["schedule/lr"][:, None].expand(-1, 3), **CLOSE)


def test_no_array_of_the_golden_file_is_forgotten(golden):
    crops = {  # tests/datamodules/augment/test_draws.py
        *("crop/cross0_boxes_x0_y0_x1_y1", "crop/cross3_boxes_x0_y0_x1_y1", "crop/image_width_height"),
    }
    of_montages = {f"montage/{part}" for part in ("crops", "permutation", "montages", "n")}
    features = {"pooled_2x2_features", "grad_pooled_2x2_features"}
    step = {f"step/{part}" for part in features | {"crops", "permutation", "temperature"}}
    losses = {f"{run}/loss_{kind}" for run in ("step", "tworank") for kind in ("cluster", "location")}
    cluster = {f"cluster/t{i}_{part}" for i in range(3) for part in ("value", "grad_z")}
    cluster |= {"cluster/z", "cluster/labels", "cluster/temperatures"}
    ranks = {f"tworank/{part}" for part in ("crops", "permutation", "montages", "n_total")}
    rest = {"pool/x", "pool/y", "schedule/args_lr_min_epochs", "schedule/lr", "hyper/seed"}
    parameters = {f"{prefix}{part}" for prefix in HEADS for part in ("weight", "bias")}
    weights = {f"tworank/param/{name}" for name in parameters}
    parameters |= {"encoder.conv.weight", "encoder.conv.bias"}
    weights |= {f"step/{kind}/{name}" for kind in ("param", "grad") for name in parameters}
    assert set(golden("jigclu")) == crops | of_montages | step | losses | cluster | ranks | rest | weights


def test_features_come_back_to_their_images():
    """A network that averages pixels gives each image the mean of its own crops."""
    crops = torch.rand(4, 6, 3, 4, 4, dtype=torch.float64)
    module = JigClu(backbone=BackboneConfig("tests.methods.test_jigclu.Pixels"), hidden_dim=8, out_dim=4).double()
    output = module.step(batch(crops))
    torch.testing.assert_close(output.features, crops.mean((0, 3, 4)), **CLOSE)
    first = F.normalize(module.projector(crops[0].mean((2, 3))), dim=1)
    torch.testing.assert_close(output.projections, first.detach(), **CLOSE)
    assert not output.features.requires_grad
