"""ReLICv2 against its listing in numbers, and what the paper says of it."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from datamodules.augment import Augment, recipe
from datamodules.errors import UserError
from datamodules.views import Views
from methods.losses.relic import relic_v2
from methods.relic import ReLIC
from methods.relicv2 import ReLICv2
from tests.support.methods import IMAGE_SIZE, images, small, to_double, without_norm
from tests.support.ranks import on_ranks


def batch_of(count: int = 8, recipe_name: str = "relicv2_no_masks") -> Views:
    """A batch of views whose background is left in."""
    augment = Augment(recipe(recipe_name, IMAGE_SIZE), mean=(0.5,) * 3, std=(0.25,) * 3, seed=0)
    index = torch.arange(count)
    views = augment(images(count), augment.draw(0, index, (IMAGE_SIZE, IMAGE_SIZE)))
    return Views(views[0], index % 3, index, views[1])


def contrast(module: ReLICv2, online: Tensor, target: Tensor) -> Any:
    """The method's comparison of raw vectors [V, B, d] and [L, B, d]."""
    o, t = (F.normalize(v, dim=-1).transpose(0, 1) for v in (online, target))
    index = torch.arange(o.shape[0])
    return module.contrast({"h1": online[0].detach(), "h2": online[1].detach(), "o": o, "t": t, "index": index})


@pytest.mark.parametrize("rule", ["stopgrad", "grad"])
@pytest.mark.parametrize("negatives", ["full", "sampled"])
@pytest.mark.parametrize("pairs", ["all", "cross"])
def test_equals_the_listing(golden, monkeypatch, pairs, negatives, rule):
    g = golden("relicv2")
    mode = f"{pairs}_pairs_{negatives}"
    expected = {name.removeprefix(f"{mode}/{rule}_"): value for name, value in g.items() if name.startswith(mode)}
    settings = {name: float(g[name]) for name in ("alpha", "beta")}
    temperature, stop_gradient = float(g["tau"]), rule == "stopgrad"
    module = small(
        ReLICv2, temperature=temperature, num_negatives=None, pairs=pairs, stop_gradient=stop_gradient, **settings
    )
    given = g["negatives"] if negatives == "sampled" else None
    monkeypatch.setattr(module, "negatives", lambda index, V, L: given)
    online = g["online"].clone().requires_grad_()
    output = contrast(module, online, g["target"])
    torch.testing.assert_close(output.loss, expected["loss"], rtol=1e-9, atol=0)
    torch.testing.assert_close(output.logs["contrast"], expected["contrast"], rtol=1e-9, atol=0)
    torch.testing.assert_close(output.logs["invariance"], expected["kl"], rtol=1e-9, atol=0)
    (grad,) = torch.autograd.grad(output.loss, online)
    torch.testing.assert_close(grad, expected["grad_online"], rtol=1e-9, atol=1e-12)

    unit = [F.normalize(v, dim=-1).transpose(0, 1) for v in (g["online"], g["target"])]
    terms = relic_v2(unit[0], unit[1], temperature, given, stop_gradient).permute(1, 2, 0)  # [V, L, 2]
    V, L = int(g["n_large"] + g["n_small"]), int(g["n_large"])
    counted = torch.ones(V, L, dtype=torch.bool)
    if pairs == "cross":
        counted.fill_diagonal_(False)
    torch.testing.assert_close(terms[counted], expected["pair_terms"][counted], rtol=1e-9, atol=0)
    assert int(counted.sum()) == int(g[f"{mode}/scale"])


def test_equals_the_reimplementation(golden):
    g = golden("relicv2")
    online, temperature = g["online"].clone().requires_grad_(), float((-g["reference/log_scale"]).exp())
    module = small(
        ReLICv2,
        temperature=temperature,
        alpha=float(g["alpha"]),
        beta=float(g["beta"]),
        num_negatives=None,
        pairs="cross",
        stop_gradient=False,
    )
    output = contrast(module, online, g["target"])
    torch.testing.assert_close(output.loss, g["reference/loss"], rtol=1e-9, atol=0)
    torch.testing.assert_close(output.logs["invariance"], g["reference/invariance"], rtol=1e-9, atol=0)
    (grad,) = torch.autograd.grad(output.loss, online)
    torch.testing.assert_close(grad, g["reference/grad_online"], rtol=1e-9, atol=1e-12)


def test_two_large_views_without_small_ones_have_relics_contrast():
    batch = batch_of(recipe_name="byol")
    v1, v2 = small(ReLIC), small(ReLICv2, num_negatives=None, pairs="cross")
    v2.load_state_dict(v1.state_dict())
    ours, theirs = v2.step(batch), v1.step(batch)
    torch.testing.assert_close(2 * ours.logs["contrast"], theirs.logs["contrast"])  # a mean over pairs, a sum over two
    assert v2.ema_pairs()[0].momentum_at(0.4) == v1.ema_pairs()[0].momentum_at(0.4)


def test_small_crops_are_interchangeable_and_the_target_never_sees_them(monkeypatch):
    module, batch = small(ReLICv2), batch_of()
    seen: list[Tensor] = []
    teach = module.teach
    monkeypatch.setattr(module, "teach", lambda teacher, x: seen.append(x) or teach(teacher, x))
    expected = module.step(batch)
    assert [id(x) for x in seen] == [id(x) for x in batch.global_views]
    turned = module.step(batch._replace(local_views=batch.local_views[::-1]))
    torch.testing.assert_close(turned.loss, expected.loss)
    other = module.step(batch._replace(local_views=[torch.zeros_like(x) for x in batch.local_views]))
    assert not torch.isclose(other.loss, expected.loss)


def test_every_view_goes_through_the_network_once_and_sizes_stay_apart():
    module, batch = small(ReLICv2), batch_of()
    passes: list[torch.Size] = []
    module.backbone.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].shape[0::2]))
    module.step(batch)
    local_size = batch.local_views[0].shape[-1]
    assert passes == [(8, IMAGE_SIZE), (8, IMAGE_SIZE), (6 * 8, local_size)]


def test_the_network_learns_from_every_view():
    module, batch = small(ReLICv2), batch_of()
    o = module.embed(batch)["o"]
    assert o.shape[:2] == (8, 2 + 6)
    first = next(module.backbone.parameters())
    for view in range(8):
        assert torch.autograd.grad(o[:, view, 0].sum(), first, retain_graph=True)[0].any()


def test_negatives_follow_from_the_image_alone_and_differ_between_pairs():
    module = small(ReLICv2, num_negatives=3)
    index = torch.randperm(50)[:9]
    drawn = module.negatives(index, V=4, L=2)
    assert drawn is not None
    assert drawn.shape == (4, 2, 9, 3)
    assert torch.equal(drawn, torch.as_tensor(module.negatives(index, V=4, L=2)))
    flat = drawn.flatten(0, 1)
    assert not any(torch.equal(flat[p], flat[q]) for p in range(8) for q in range(p))


@pytest.mark.parametrize("count", [7, 10, None])
def test_as_many_negatives_as_there_are_means_all(count):
    assert small(ReLICv2, num_negatives=count).negatives(torch.arange(8), V=2, L=2) is None


def loss_and_gradients(rank: int, ranks: int) -> dict[str, np.ndarray]:
    """One step with sampled negatives on this rank's part of the batch; the gradients are DDP's mean."""
    module = without_norm(small(ReLICv2, num_negatives=3)).double()
    B = 8 // ranks
    batch = to_double(batch_of()).rows(rank * B, (rank + 1) * B)
    loss = module.step(batch).loss
    loss.backward()
    answer = {"loss": loss.detach()}
    answer |= {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    for value in answer.values() if ranks > 1 else []:
        dist.all_reduce(value)
        value /= ranks
    return {name: value.numpy() for name, value in answer.items()}


@pytest.mark.ddp
def test_two_ranks_draw_and_learn_as_one_process():
    expected = loss_and_gradients(0, 1)
    for answer in on_ranks(2, loss_and_gradients, 2):
        assert answer.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(answer[name], value, rtol=1e-8, atol=1e-12, err_msg=name)


def test_refuses_what_cannot_be():
    for wrong in ({"temperature": 0.0}, {"beta": -1.0}, {"num_negatives": 0}, {"out_dim": 0}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))}="):
            small(ReLICv2, **wrong)
    batch = batch_of()
    with pytest.raises(UserError, match="at least 2 global views"):
        small(ReLICv2).step(batch._replace(global_views=batch.global_views[:1]))
