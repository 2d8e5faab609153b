"""Fast-MoCo against numbers from the authors' code."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.fast_moco import FastMoCo
from methods.losses import negative_cosine
from methods.optim import OptimConfig
from tests.support.golden import load
from tests.support.methods import small, views
from tests.support.ranks import on_ranks


class OneConv(nn.Sequential):
    """The goldens' stand-in for a ResNet."""

    feature_dim = 5

    def __init__(self) -> None:
        convolution = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


TINY = BackboneConfig("tests.methods.test_fast_moco.OneConv")
HEADS = {  # the authors' names -> ours
    **{f"linear{i + 1}": str(3 * i) for i in range(3)},
    **{f"bn{i + 1}": str(3 * i + 1) for i in range(3)},
    "layer2": "3",
}
NETWORKS = {  # theirs -> ours; encoder.0 is their backbone once more
    "backbone.": "backbone.",
    "encoder.1.": "projector.",
    "predictor.": "predictor.",
    "bbone_ema.": "teacher.backbone.",
    "encoder_ema.1.": "teacher.projector.",
}


def ours(name: str) -> str | None:
    """Our name of an entry of the authors' state; None for an alias of another entry."""
    prefix = next((prefix for prefix in NETWORKS if name.startswith(prefix)), None)
    if prefix is None:
        return None
    first, _, rest = name.removeprefix(prefix).partition(".")
    return f"{NETWORKS[prefix]}{HEADS.get(first, first)}.{rest}"


def state(g: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    named = {ours(name.removeprefix(prefix)): value for name, value in g.items() if name.startswith(prefix)}
    return {name: value for name, value in named.items() if name is not None}


def test_a_whole_step(golden):
    g = golden("fast_moco")
    m = float(g["hyper/ema_m"])
    module = FastMoCo(backbone=TINY, hidden_dim=12, out_dim=8, predictor_hidden_dim=6, teacher_momentum=m).double()
    before = state(g, "step/before/")
    module.load_state_dict(before)
    assert before.keys() == module.state_dict().keys()
    (pair,) = module.ema_pairs()  # the authors move the teacher at the start of a step
    with torch.no_grad():
        for teacher, student in zip(*pair.parameters(), strict=True):
            teacher.lerp_(student, 1 - pair.momentum_at(0))

    x1, x2 = g["step/x"].chunk(2, dim=1)
    index = torch.arange(len(x1))
    e = module.embed(Views([x1, x2], index, index))
    output = module.contrast(e)
    output.loss.backward()

    for view in "12":
        q = e[f"q{view}"].transpose(0, 1).flatten(0, 1)
        torch.testing.assert_close(q, F.normalize(g[f"step/out/p{view}"], dim=1), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(e[f"k{view}"], F.normalize(g[f"step/out/z{view}"], dim=1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(output.loss, g["step/loss"], rtol=1e-9, atol=0)
    grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    expected = state(g, "step/grad/")
    assert grads.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-9, atol=1e-13, msg=name)
    after = module.state_dict()
    for name, value in state(g, "step/after/").items():
        torch.testing.assert_close(after[name], value, rtol=1e-9, atol=1e-13, msg=name)


def contrast(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Our loss of the authors' raw outputs: p [S * B, d] in blocks of the batch, z [B, d]."""
    module = FastMoCo(backbone=TINY, hidden_dim=12, out_dim=8, predictor_hidden_dim=6, temperature=temperature)
    B = len(z1)
    q1, q2 = (F.normalize(p, dim=1).unflatten(0, (-1, B)).transpose(0, 1) for p in (p1, p2))
    k1, k2 = (F.normalize(z, dim=1) for z in (z1, z2))
    h = torch.zeros(B, 5)
    return module.contrast({"h1": h, "h2": h, "q1": q1, "q2": q2, "k1": k1, "k2": k2}).loss


@pytest.mark.parametrize("i", range(3))
def test_loss_and_gradients(golden, i):
    g = golden("fast_moco")
    p1, p2 = (g[f"loss/{name}"].clone().requires_grad_() for name in ("p1", "p2"))
    loss = contrast(p1, p2, g["loss/z1"], g["loss/z2"], float(g["loss/temperatures"][i]))
    loss.backward()
    torch.testing.assert_close(loss, g[f"loss/t{i}_value"], rtol=1e-9, atol=0)
    torch.testing.assert_close(p1.grad, g[f"loss/t{i}_grad_p1"], rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(p2.grad, g[f"loss/t{i}_grad_p2"], rtol=1e-9, atol=1e-13)


def test_the_authors_cosine_of_the_keys(golden):
    g = golden("fast_moco")
    cosine = -negative_cosine(g["loss/z1"], g["loss/z2"])
    torch.testing.assert_close(cosine, g["loss/cosine_z1_z2"], rtol=1e-9, atol=0)


def _on_a_rank(rank: int) -> list[Any]:
    g = load("fast_moco")
    p1, p2, z1, z2 = (g[f"tworank/{name}"][rank].clone() for name in ("p1", "p2", "z1", "z2"))
    loss = contrast(p1.requires_grad_(), p2.requires_grad_(), z1, z2, float(g["tworank/temperature"][rank]))
    loss.backward()
    assert p1.grad is not None and p2.grad is not None
    return [value.detach().numpy() for value in (loss, p1.grad, p2.grad)]


@pytest.mark.ddp
def test_two_ranks(golden):
    g = golden("fast_moco")
    for rank, values in enumerate(on_ranks(2, _on_a_rank)):
        for name, value in zip(("loss", "grad_p1", "grad_p2"), values, strict=True):
            expected = g[f"tworank/{name}"][rank]
            torch.testing.assert_close(torch.as_tensor(value), expected, rtol=1e-9, atol=1e-13, msg=name)


@pytest.mark.parametrize("run", "ab")
def test_learning_rates(golden, run):
    g = golden("fast_moco")
    epochs, steps = g[f"schedule/{run}_epochs_iters"].tolist()
    expected = g[f"schedule/{run}_lr"]
    warmup = max(steps, 2)  # theirs reaches the peak in the epoch's last step, and 0 in the run's last
    optim = OptimConfig(
        "sgd", lr=0.1, lr_base_batch=512, start_lr_ratio=0.25, warmup_epochs=(warmup - 1) / steps, decay_biases=True
    )
    groups = small(FastMoCo, optim=optim).param_groups()
    optimizer, schedule = optim.build(groups, 512, total_steps=epochs * steps - 1, steps_per_epoch=steps)
    rates = []
    for _ in range(epochs * steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(torch.tensor(rates, dtype=torch.float64), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_loss_stays_within_its_bounds(temperature):
    B = 8
    worst = torch.eye(B)
    towards = contrast(*[worst.repeat(6, 1)] * 2, *[worst] * 2, temperature)
    against = contrast(*[-worst.repeat(6, 1)] * 2, *[worst] * 2, temperature)
    for loss in (towards, against, small(FastMoCo, temperature=temperature).step(views(FastMoCo, B)).loss):
        assert math.log(B) - 2 / temperature < loss < math.log(B) + 2 / temperature
    assert towards < math.log(B) < against
