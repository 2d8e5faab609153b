"""Supervised contrast against the authors' numbers, a double loop, and what must leave it unchanged."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.losses import nt_xent
from methods.losses.supcon import supervised_contrast
from tests.support.golden import load
from tests.support.ranks import on_ranks

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def same(labels: Tensor) -> Tensor:
    return labels[:, None] == labels


def positives_of(g: dict[str, Tensor], case: str) -> Tensor:
    if case.startswith("simclr"):
        return torch.eye(len(g["labels"]))
    return g["mask_asym"] if case == "mask" else same(g["labels"])


@pytest.mark.parametrize("case", ["sup", "sup_eqT", "simclr", "simclr_eqT", "one", "mask"])
def test_equals_the_authors_code(golden, case):
    g = golden("supcon")
    T, base = g[f"{case}_T"].tolist()
    z = g["features"].clone().requires_grad_()
    loss = supervised_contrast(z, positives_of(g, case), T, base, "one" if case == "one" else "all")
    loss.backward()
    torch.testing.assert_close(loss.detach(), g[f"{case}_loss"], **CLOSE)
    torch.testing.assert_close(z.grad, g[f"{case}_grad"], **CLOSE)


def test_one_view_leaves_some_anchors_without_positives(golden):
    g = golden("supcon")
    z = g["features"][:, :1].clone().requires_grad_()
    loss = supervised_contrast(z, same(g["labels"]), 0.1, 0.07)
    loss.backward()
    torch.testing.assert_close(loss.detach(), g["oneview_loss"], **CLOSE)
    torch.testing.assert_close(z.grad, g["oneview_grad"], **CLOSE)


def test_no_array_of_the_golden_file_is_forgotten(golden):
    known = ("features", "labels", "mask_", "sup_", "simclr_", "one_", "oneview_")
    schedule = ("sched_",)  # tests/methods/test_supcon.py
    assert not [name for name in golden("supcon") if not name.startswith(known + schedule)]


def features(B: int = 6, V: int = 2, d: int = 4) -> Tensor:
    return F.normalize(torch.randn(B, V, d, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize(("V", "mode"), [(1, "all"), (2, "all"), (3, "all"), (3, "one")])
def test_equals_a_double_loop(V, mode):
    z, labels, T, base = features(V=V), torch.tensor([0, 0, 1, 2, 1, 0]), 0.3, 0.1
    views = [(i, v) for v in range(V) for i in range(6)]
    anchors, total = [view for view in views if mode == "all" or view[1] == 0], 0.0
    for i, v in anchors:
        score = {(j, w): float(z[i, v] @ z[j, w]) / T for j, w in views if (j, w) != (i, v)}
        crowd = math.log(sum(math.exp(s) for s in score.values()))
        found = [s - crowd for (j, _), s in score.items() if labels[j] == labels[i]]
        total -= T / base * sum(found) / max(1, len(found))
    loss = supervised_contrast(z, same(labels), T, base, mode)
    assert float(loss) == pytest.approx(total / len(anchors), rel=1e-12)


def test_distinct_labels_give_nt_xent():
    z = features()
    loss = supervised_contrast(z, same(torch.arange(6)), 0.2, 0.2)
    torch.testing.assert_close(loss, nt_xent(z[:, 0], z[:, 1], 0.2))


def test_order_names_of_classes_and_the_base_temperature_do_not_matter():
    z, labels = features(), torch.tensor([0, 0, 1, 2, 1, 0])
    expected = supervised_contrast(z, same(labels), 0.2, 0.2)
    order = torch.randperm(6)
    torch.testing.assert_close(supervised_contrast(z[order], same(labels[order]), 0.2, 0.2), expected)
    torch.testing.assert_close(supervised_contrast(z, same(7 - labels), 0.2, 0.2), expected)
    torch.testing.assert_close(supervised_contrast(z.flip(1), same(labels), 0.2, 0.2), expected)
    torch.testing.assert_close(supervised_contrast(z, same(labels), 0.2, 0.05) / 4, expected)


def share(rank: int, ranks: int, case: str) -> tuple[np.ndarray, np.ndarray]:
    g = load("supcon")
    B = len(g["labels"]) // ranks
    rows = slice(rank * B, (rank + 1) * B)
    z = g["features"][rows].clone().requires_grad_()
    T, base = g[f"{case}_T"].tolist()
    loss = supervised_contrast(z, positives_of(g, case)[rows], T, base, "one" if case == "one" else "all")
    loss.backward()
    assert z.grad is not None
    return loss.detach().numpy(), z.grad.numpy()


def shares(rank: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {case: share(rank, 2, case) for case in ("sup", "one", "mask")}


@pytest.mark.ddp
def test_two_ranks_equal_the_authors_one_process(golden):
    g = golden("supcon")
    answers = on_ranks(2, shares)
    for case in answers[0]:
        np.testing.assert_allclose(np.mean([a[case][0] for a in answers]), g[f"{case}_loss"], **CLOSE)
        np.testing.assert_allclose(np.concatenate([a[case][1] for a in answers]) / 2, g[f"{case}_grad"], **CLOSE)
