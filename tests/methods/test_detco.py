"""DetCo against recorded numbers of the public reimplementation, and what the paper says of it."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.errors import UserError
from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.detco import DetCo, describe
from methods.losses import queue_nce
from methods.moco import MoCo
from methods.modules.levels import tap_levels
from methods.optim import OptimConfig
from tests.support.golden import load
from tests.support.methods import small, to_double, views, without_norm
from tests.support.ranks import on_ranks
from tests.support.trajectory import replay

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}
CONVNET = BackboneConfig("convnet", options={"width": 4})
STILL = OptimConfig("sgd", lr=0.0, weight_decay=0.0, warmup_epochs=0)


class GivenEmbeddings(DetCo):
    """Takes recorded vectors [B, 2L, d] where images would be, local levels behind the global ones, not normalised."""

    query: Tensor

    def embed(self, views: Views) -> dict[str, Tensor]:
        self.query, key = views.global_views[0].requires_grad_(), views.global_views[1]
        untouched = 0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()
        q, q_local = F.normalize(self.query + untouched, dim=2).chunk(2, dim=1)
        k, k_local = F.normalize(self.teach(nn.Identity(), key), dim=2).chunk(2, dim=1)
        return {"h": self.query[:, 0], "q": q, "q_local": q_local, "k": k, "k_local": k_local}


def given(queues: Tensor, temperature: float, **arguments: Any) -> GivenEmbeddings:
    """The module with recorded queues [2L, d, K]."""
    sizes = {"out_dim": queues.shape[1], "queue_size": queues.shape[2]}
    module = GivenEmbeddings(temperature, backbone=CONVNET, optim=STILL, **sizes, **arguments).double()
    for queue, start in zip([*module.global_queues, *module.local_queues], queues, strict=True):
        queue.keys.copy_(start.T)
    return module


def read(module: Any) -> dict[str, Tensor]:
    queues = [*module.global_queues, *module.local_queues]
    return {
        "queues": torch.stack([queue.keys.T for queue in queues]),
        "pointers": torch.tensor([queue.pointer for queue in queues]),
        "grad": module.query.grad,
        "key_encoder": module.teacher.local_heads.levels[3][-1].bias[:3],
    }


def record_logits() -> list[Tensor]:
    """From now on keeps the logits of every cross-entropy."""
    seen: list[Tensor] = []
    original = F.cross_entropy

    def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
        assert not target.any()  # column 0 is the positive
        seen.append(logits.detach())
        return original(logits, target)

    F.cross_entropy = cross_entropy
    return seen


def by_kind(logits: list[Tensor]) -> Tensor:
    """[steps, B, 12, 1 + K] in the recorded order: image-image of levels 1 to 4, patches-patches, patches-image."""
    return torch.stack(logits).unflatten(0, (-1, 4, 3)).permute(0, 3, 2, 1, 4).flatten(2, 3)


def test_five_steps(golden, monkeypatch):
    """Logits, losses, gradient, the eight queues, through the end of the queue and around, and the key encoder."""
    g = golden("detco")
    temperature, K, m = g["loss/hyper_T_K_m"].tolist()
    module = given(g["loss/queue_start"], temperature, teacher_momentum=m)
    assert module.level_weights == tuple(g["loss/level_weights"].tolist())
    with torch.no_grad():
        module.local_heads.levels[3][-1].bias[:3] = g["ema/q"]
        module.teacher.local_heads.levels[3][-1].bias[:3] = g["ema/k_before"]
    monkeypatch.setattr(F, "cross_entropy", F.cross_entropy)  # put back after the test
    logits = record_logits()
    run = replay(module, [torch.stack([g[f"loss/s{i}_{role}"] for i in range(5)]) for role in "qk"], read)

    for i, step in enumerate(by_kind(logits)):
        torch.testing.assert_close(step, g[f"loss/s{i}_logits"], **CLOSE)
        losses = -step.log_softmax(2)[..., 0].mean(0)
        torch.testing.assert_close(losses, g[f"loss/s{i}_losses12"], **CLOSE)
        torch.testing.assert_close(run["loss"][i], g[f"loss/s{i}_total"], **CLOSE)
        torch.testing.assert_close(run["grad"][i], g[f"loss/s{i}_grad_q"], **CLOSE)
        torch.testing.assert_close(run["queues"][i], g[f"loss/s{i}_queue_after"], **CLOSE)
        assert torch.all(run["pointers"][i] == g[f"loss/s{i}_ptr_after"])
    assert run["pointers"][3, 0] == 0  # it has wrapped around
    torch.testing.assert_close(run["queues"].norm(dim=2), torch.ones(5, 8, int(K)).double())
    torch.testing.assert_close(run["key_encoder"][0], g["ema/k_after"], **CLOSE)


def two_ranks(rank: int) -> dict[str, np.ndarray]:
    g = load("detco")
    module = given(g["tworank/queue_start"][rank], float(g["loss/hyper_T_K_m"][0]), batch_norm="shuffle")
    logits = record_logits()
    run = replay(module, [g[f"tworank/{role}"].flatten(0, 1)[None] for role in "qk"], read, ranks=2, rank=rank)
    return {name: value.numpy() for name, value in (run | {"logits": by_kind(logits)}).items()}


@pytest.mark.ddp
def test_two_ranks_with_shuffled_keys(golden):
    g = golden("detco")
    for rank, run in enumerate(on_ranks(2, two_ranks)):
        np.testing.assert_allclose(run["logits"][0], g["tworank/logits"][rank], **CLOSE)
        np.testing.assert_allclose(run["queues"][0], g["tworank/queue_after"][rank], **CLOSE)
        assert (run["pointers"] == g["tworank/ptr_after"][rank].numpy()).all()


class Maps(nn.Module):
    """Maps in place of images: a network whose only part gives them back."""

    feature_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return self.stage(maps).mean((2, 3))


def test_a_local_vector_is_its_patches_in_their_order(golden):
    g = golden("detco")
    network = Maps()
    tap_levels(network, ["stage"])
    patches = g["concat/z"].unflatten(0, (9, 2)).transpose(0, 1)  # recorded patch by patch
    features, vector = describe(network, lambda levels: levels[0], patches)
    torch.testing.assert_close(vector, g["concat/vector"], **CLOSE)
    assert torch.equal(features, vector)


def test_no_array_of_the_golden_file_is_forgotten(golden):
    jigsaw = {"jigsaw/x", "jigsaw/patches", "jigsaw/cell_row_col", "jigsaw/patches_crop6_x0_y0"}  # test_jigsaw.py
    setting = {"loss/queue_start", "loss/hyper_T_K_m", "loss/level_weights", "hyper/seed"}
    others = {"ema/q", "ema/k_before", "ema/k_after", "concat/z", "concat/vector"}
    parts = ("q", "k", "logits", "losses12", "total", "grad_q", "queue_after", "ptr_after")
    steps = {f"loss/s{i}_{part}" for i in range(5) for part in parts}
    ranks = {f"tworank/{part}" for part in ("queue_start", "q", "k", "logits", "queue_after", "ptr_after")}
    assert set(golden("detco")) == jigsaw | setting | others | steps | ranks


def test_the_last_level_of_whole_images_is_moco_v2():
    """Same weights, same queue: DetCo's loss is MoCo's and those of the patches."""
    batch = to_double(views(DetCo))
    detco = small(DetCo, level_weights=(0.0, 0.0, 0.0, 1.0)).double()
    moco = small(MoCo, hidden_dim=detco.feature_dim).double()
    moco.backbone = copy.deepcopy(detco.backbone)
    moco.projector.load_state_dict(detco.global_heads.levels[3].state_dict())
    moco.teacher.backbone = copy.deepcopy(detco.teacher.backbone)
    moco.teacher.projector.load_state_dict(detco.teacher.global_heads.levels[3].state_dict())
    moco.queue.load_state_dict(detco.global_queues[3].state_dict())
    output = detco.step(batch)
    e = detco.embed(batch)
    q, k = e["q_local"][:, 3], e["k_local"][:, 3]
    local = queue_nce(q, k, detco.local_queues[3].keys, 0.2)
    across = queue_nce(q, e["k"][:, 3], detco.global_queues[3].keys, 0.2)
    expected = moco.step(batch)
    torch.testing.assert_close(output.loss - local - across, expected.loss, rtol=1e-9, atol=0)
    torch.testing.assert_close(output.features, expected.features, **CLOSE)
    torch.testing.assert_close(output.enqueue["global_queues.3"], expected.enqueue["queue"], **CLOSE)


def test_the_loss_at_a_high_temperature_counts_the_negatives():
    module = small(DetCo, temperature=1e4)
    assert module.step(views(DetCo)).loss.item() == pytest.approx(3 * 2.2 * math.log(1 + 24), rel=1e-3)


def test_images_and_patches_take_one_pass_each():
    """A query and a key pass of B whole images, and of 9 B patches of 4 x 4 pixels at 15."""
    module, sizes = small(DetCo), []
    for network in (module.backbone, module.teacher.backbone):
        network.register_forward_hook(lambda network, inputs, output: sizes.append(tuple(inputs[0].shape)))
    module.step(views(DetCo, 5))
    assert sizes == [(5, 3, 16, 16), (45, 3, 4, 4)] * 2


def test_no_gradient_reaches_the_keys():
    module = small(DetCo)
    e = module.embed(views(DetCo))
    assert {name for name, value in e.items() if value.requires_grad} == {"h", "q", "q_local"}
    norms = torch.cat([e[name] for name in ("q", "q_local", "k", "k_local")]).norm(dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def shuffled_keys(rank: int) -> dict[str, np.ndarray]:
    module, batch = without_norm(small(DetCo, batch_norm="shuffle")), views(DetCo)
    e = module.embed(batch.rows(4 * rank, 4 * rank + 4))
    return {name: value.detach().numpy() for name, value in e.items()}


@pytest.mark.ddp
def test_shuffling_keeps_the_patches_of_an_image_together():
    """Where no image sees another, keys that went over two ranks in another order equal those that stayed."""
    expected = without_norm(small(DetCo)).embed(views(DetCo))
    answers = on_ranks(2, shuffled_keys)
    for name, value in expected.items():
        both = np.concatenate([answer[name] for answer in answers])
        np.testing.assert_allclose(both, value.detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("local_hidden_dim", [None, 6])
def test_sizes_of_the_heads(local_hidden_dim):
    """C - C - d for images and 9C - hidden - d for patches, with biases and without norms."""
    module, d = small(DetCo, local_hidden_dim=local_hidden_dim), 8
    for level, C in enumerate([4, 8, 16, 32]):
        for heads, size, hidden in ((module.global_heads, C, C), (module.local_heads, 9 * C, local_hidden_dim or C)):
            shapes = [tuple(p.shape) for p in heads.levels[level].parameters()]
            assert shapes == [(hidden, size), (hidden,), (d, hidden), (d,)]


def test_other_levels():
    keys = small(DetCo, levels=["layers.6"], level_weights=(0.5, 1.0)).step(views(DetCo)).enqueue
    assert keys.keys() == {f"{kind}_queues.{level}" for kind in ("global", "local") for level in (0, 1)}
    assert keys["global_queues.0"].shape == (8, 8)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"level_weights": (1.0, 1.0)}, "2 numbers for 4 levels"),
        ({"levels": ["layer1"]}, "no part 'layer1'"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"queue_size": 0, "local_hidden_dim": 0}, "queue_size=0 and local_hidden_dim=0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_wrong_settings_are_answered_with_a_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        small(DetCo, **arguments)


def test_views_without_local_ones():
    with pytest.raises(UserError, match="2 local views of an image, the recipe makes 0"):
        small(DetCo).step(views(MoCo))
