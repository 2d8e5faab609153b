"""Alignment and uniformity as methods, against numbers from the authors' code; their terms: tests/methods/losses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError
from methods.align_uniform import AlignUniform
from methods.align_uniform_moco import AlignUniformMoCo
from methods.base import StepOutput
from methods.losses import queue_nce
from tests.support.methods import small

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def test_the_weighted_sum(golden):
    g = golden("align_uniform")
    align_weight, uniform_weight = g["weights"].tolist()
    module = small(AlignUniform, align_weight=align_weight, uniform_weight=uniform_weight)
    assert isinstance(module, AlignUniform)
    rx, ry = (g[name].clone().requires_grad_() for name in ("rx", "ry"))
    z1, z2 = F.normalize(rx, dim=1), F.normalize(ry, dim=1)
    loss = module.contrast({"z1": z1, "z2": z2, "h1": z1, "h2": z2}).loss
    loss.backward()
    torch.testing.assert_close(loss.detach(), g["total_loss"], **CLOSE)
    torch.testing.assert_close(rx.grad, g["total_grad_rx"], **CLOSE)
    torch.testing.assert_close(ry.grad, g["total_grad_ry"], **CLOSE)


def with_queue(g: dict[str, Tensor], **arguments) -> tuple[StepOutput, Tensor, AlignUniformMoCo]:
    """One step of the MoCo variant on the golden queries, keys and queue."""
    dim, K = g["mqueue"].shape
    module = small(AlignUniformMoCo, queue_size=K, out_dim=dim, **arguments).double()
    assert isinstance(module, AlignUniformMoCo)
    module.queue.keys.copy_(g["mqueue"].T)
    raw = g["mq_raw"].clone().requires_grad_()
    q, k = F.normalize(raw, dim=1), F.normalize(g["mk_raw"], dim=1)
    return module.contrast({"h": raw, "q": q, "k": k}), raw, module


@pytest.mark.parametrize(("name", "in_batch"), [("moco_intra", True), ("moco_nointra", False)])
def test_the_variant_with_a_queue(golden, name, in_batch):
    g = golden("align_uniform")
    output, raw, module = with_queue(g, in_batch=in_batch)  # the default weights and t are the authors'
    output.loss.backward()
    torch.testing.assert_close(output.logs["alignment"], g[f"{name}_align"], **CLOSE)
    torch.testing.assert_close(output.logs["uniformity"], g[f"{name}_unif"], **CLOSE)
    torch.testing.assert_close(output.loss.detach(), g[f"{name}_total"], **CLOSE)
    torch.testing.assert_close(raw.grad, g[f"{name}_grad_q"], **CLOSE)
    keys = F.normalize(g["mk_raw"], dim=1)
    assert torch.equal(output.enqueue["queue"], keys)
    contrastive = queue_nce(output.projections.detach(), keys, module.queue.keys, 0.2)  # pyright: ignore
    torch.testing.assert_close(contrastive, g[f"{name}_contr"], **CLOSE)


def test_the_variant_with_another_power(golden):
    g = golden("align_uniform")
    torch.testing.assert_close(with_queue(g, alpha=1.0)[0].logs["alignment"], g["moco_align_a1"], **CLOSE)


def test_no_array_of_the_golden_file_is_forgotten(golden):
    here = ("rx", "ry", "weights", "total_", "mq_raw", "mk_raw", "mqueue", "moco_")
    terms = ("x", "y", "align_a", "unif_t")  # tests/methods/losses/test_align_uniform.py
    assert not [name for name in golden("align_uniform") if not name.startswith(here + terms)]


@pytest.mark.parametrize(
    ("weights", "align", "uniform"),
    [
        ((1.0, 0.0), (0.0, 0.05), (-0.5, 1e-4)),
        ((0.0, 1.0), (0.9, 2.0), (-4.0, -3.3)),
        ((1.0, 1.0), (0.2, 0.85), (-4.0, -3.2)),
    ],
    ids=["alignment alone collapses", "uniformity alone forgets the pairs", "both"],
)
def test_what_each_term_does_alone(weights, align, uniform):
    """A linear map of 32 clusters' noisy views onto the sphere."""
    generator = torch.Generator().manual_seed(0)
    module = small(AlignUniform, align_weight=weights[0], uniform_weight=weights[1])
    assert isinstance(module, AlignUniform)
    projector = torch.nn.Linear(32, 16)
    optimizer = torch.optim.Adam(projector.parameters(), lr=0.03)
    centres = torch.randn(32, 32, generator=generator)
    for _ in range(150):
        z1, z2 = (
            F.normalize(projector(centres.repeat(2, 1) + torch.randn(64, 32, generator=generator)), dim=1)
            for _ in range(2)
        )
        output = module.contrast({"z1": z1, "z2": z2, "h1": z1, "h2": z2})
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert align[0] <= output.logs["alignment"] <= align[1]
    assert uniform[0] <= output.logs["uniformity"] <= uniform[1]


@pytest.mark.parametrize("method", [AlignUniform, AlignUniformMoCo])
def test_says_what_is_wrong(method):
    with pytest.raises(UserError, match=r"alpha=0\.5"):
        small(method, alpha=0.5)
