"""NNCLR against numbers from solo-learn, since the authors published no code."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.losses import info_nce
from methods.nnclr import NNCLR
from tests.support.golden import load
from tests.support.methods import small, views
from tests.support.ranks import on_ranks

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def step(g: dict[str, Tensor], rows: slice) -> tuple[NNCLR, dict[str, Tensor], dict[str, Tensor]]:
    """One step of the method on some rows of the golden batch: module, raw predictions with gradient, results."""
    Q, dim = g["queue"].shape
    module = small(NNCLR, temperature=float(g["temperature"]), queue_size=Q, out_dim=dim).double()
    assert isinstance(module, NNCLR)
    module.queue.keys.copy_(g["queue"])
    module.queue_labels.keys.copy_(g["queue_y"])
    for queue in (module.queue, module.queue_labels):
        queue.seen = int(g["ptr_before"])
    p = {name: g[f"{name}_raw"][rows].clone().requires_grad_() for name in ("p1", "p2")}
    z = {name: F.normalize(g[f"{name}_raw"][rows], dim=1).requires_grad_() for name in ("z1", "z2")}
    unit = {name: F.normalize(x, dim=1) for name, x in p.items()}
    output = module.contrast(unit | z | {"h1": z["z1"], "h2": z["z2"], "label": g["y"][rows]})
    output.loss.backward()
    assert z["z1"].grad is None
    assert z["z2"].grad is None
    return module, p, {"loss": output.loss.detach(), **output.logs, **output.enqueue}


def test_neighbours_loss_gradient_and_queue(golden):
    g = golden("nnclr")
    module, p, result = step(g, slice(None))
    for view in ("1", "2"):
        nearest = small_nearest(g, F.normalize(g[f"z{view}_raw"], dim=1))
        assert torch.equal(nearest, g[f"nn_idx{view}"])
        torch.testing.assert_close(p[f"p{view}"].grad, g[f"grad_p{view}_raw"], **CLOSE)
    torch.testing.assert_close(result["loss"], g["loss"], **CLOSE)
    torch.testing.assert_close(result["neighbour_same_label"].double(), g["nn_acc"], rtol=1e-6, atol=0)
    module.queue.push(result["queue"])
    module.queue_labels.push(result["queue_labels"])
    torch.testing.assert_close(module.queue.keys, g["queue_after"], **CLOSE)
    assert torch.equal(module.queue_labels.keys, g["queue_y_after"])
    assert module.queue.pointer == module.queue_labels.pointer == g["ptr_after"]


def small_nearest(g: dict[str, Tensor], z: Tensor) -> Tensor:
    Q, dim = g["queue"].shape
    module = small(NNCLR, queue_size=Q, out_dim=dim).double()
    assert isinstance(module, NNCLR)
    module.queue.keys.copy_(g["queue"])
    return module.nearest(z)


def on_half(rank: int) -> dict[str, np.ndarray]:
    g = load("nnclr")
    half = len(g["y"]) // 2
    module, p, result = step(g, slice(rank * half, (rank + 1) * half))
    parts = [torch.empty_like(result["queue"]) for _ in range(2)]
    torch.distributed.all_gather(parts, result["queue"])
    module.queue.push(torch.cat(parts))
    grads = {name: x.grad.numpy() for name, x in p.items() if x.grad is not None}
    return grads | {
        "loss": result["loss"].numpy(),
        "queue": module.queue.keys.numpy(),
        "pointer": np.asarray(module.queue.pointer),
    }


@pytest.mark.ddp
def test_two_ranks(golden):
    g = golden("nnclr")
    for rank, answer in enumerate(on_ranks(2, on_half)):
        np.testing.assert_allclose(answer["loss"], g[f"w2_loss_r{rank}"], **CLOSE)
        for name in ("p1", "p2"):  # both ranks' losses reach these rows
            np.testing.assert_allclose(answer[name], g[f"w2_grad_{name}_raw_r{rank}"], **CLOSE)
        np.testing.assert_allclose(answer["queue"], g["w2_queue_after"], **CLOSE)
        assert answer["pointer"] == g["w2_ptr_after"]


def test_no_array_of_the_golden_file_is_forgotten(golden):
    known = ("z", "p1", "p2", "queue", "y", "ptr", "temperature", "nn_", "loss", "grad_p", "w2_")
    assert not [name for name in golden("nnclr") if not name.startswith(known)]


def test_a_queue_of_the_batch_itself_gives_plain_contrast(golden):
    g = golden("nnclr")
    batch = F.normalize(g["z1_raw"], dim=1)
    filled = g | {"queue": batch, "queue_y": g["y"], "z2_raw": g["z1_raw"], "ptr_before": torch.tensor(0)}
    _, p, result = step(filled, slice(None))
    expected = [info_nce(batch, F.normalize(x, dim=1), float(g["temperature"])) for x in p.values()]
    torch.testing.assert_close(result["loss"], (sum(expected) / 2).detach(), **CLOSE)


def test_looks_up_before_it_enqueues_and_enqueues_the_first_view_only():
    module, same = small(NNCLR), small(NNCLR)
    assert isinstance(module, NNCLR)
    assert isinstance(same, NNCLR)
    before = module.queue.keys.clone()
    batch = views(NNCLR)
    output, embeddings = module.step(batch), same.embed(batch)
    assert torch.equal(module.queue.keys, before)
    assert set(output.enqueue) == {"queue", "queue_labels"}
    assert torch.equal(output.enqueue["queue"], embeddings["z1"])
    assert not torch.allclose(output.enqueue["queue"], embeddings["z2"], atol=1e-3)


def test_unknown_labels_count_neither_as_same_nor_as_other():
    module, batch = small(NNCLR), views(NNCLR)
    module.queue_labels.push(batch.label.repeat(3))
    half = batch.label.clone()
    half[::2] = -1
    shares = {}
    for name, label in {"all": batch.label, "half": half, "none": torch.full_like(half, -1)}.items():
        shares[name] = module.step(batch._replace(label=label)).logs["neighbour_same_label"]
    assert shares["none"].isnan()
    assert 0 <= float(shares["half"]) <= 1
    assert 0 <= float(shares["all"]) <= 1
