"""SupCon's labels and schedule; its loss is in tests/methods/losses/test_supcon.py."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules.errors import UserError
from methods.losses import nt_xent
from methods.losses.supcon import supervised_contrast
from methods.optim import OptimConfig
from methods.schedules import after_warmup, constant, cosine
from methods.supcon import SupCon
from tests.support.methods import small, views
from tests.support.ranks import on_ranks

LABELS = torch.tensor([2, -1, 2, 0, -1, 0, 1, 2])


def method(**arguments) -> SupCon:
    module = small(SupCon, **arguments)
    assert isinstance(module, SupCon)
    return module


def test_an_image_without_a_label_is_in_a_class_of_its_own():
    expected = [[i == j or (a == b and a >= 0) for j, b in enumerate(LABELS)] for i, a in enumerate(LABELS)]
    assert method().same_class(LABELS).tolist() == expected


def on_half(rank: int) -> list[list[bool]]:
    return method().same_class(LABELS[4 * rank : 4 * rank + 4]).tolist()


@pytest.mark.ddp
def test_labels_are_those_of_all_ranks():
    assert sum(on_ranks(2, on_half), []) == method().same_class(LABELS).tolist()


def test_labels_reach_the_loss():
    module, batch = method(base_temperature=0.1), views(SupCon)
    e = module.embed(batch)
    torch.testing.assert_close(e["z"].norm(dim=2), torch.ones(8, 2))
    output = module.contrast(e)
    expected = supervised_contrast(e["z"], batch.label[:, None] == batch.label, 0.1, 0.1)
    torch.testing.assert_close(output.loss, expected)
    assert float(output.logs["images_of_a_class"]) == pytest.approx((9 + 9 + 4) / 8)  # classes of three, three and two
    unlabelled = module.contrast(e | {"label": torch.full((8,), -1)}).loss
    torch.testing.assert_close(unlabelled, nt_xent(e["z"][:, 0], e["z"][:, 1], 0.1))


def test_one_takes_the_first_view_as_anchor():
    module = method(contrast_mode="one")
    z = F.normalize(torch.randn(8, 2, 4), dim=2).requires_grad_()
    e = {"z": z, "label": LABELS, "h1": z[:, 0], "h2": z[:, 1]}
    expected = supervised_contrast(z, module.same_class(LABELS), 0.1, 0.07, "one")
    torch.testing.assert_close(module.contrast(e).loss, expected)


def test_classes_gather():
    """Free vectors of three classes come together, class by class, and the classes apart."""
    labels = torch.arange(12) % 3
    vectors = torch.randn(12, 2, 8, requires_grad=True)
    module, optimizer = method(), torch.optim.Adam([vectors], lr=0.1)
    for _ in range(100):
        z = F.normalize(vectors, dim=2)
        optimizer.zero_grad()
        module.contrast({"z": z, "label": labels, "h1": z[:, 0], "h2": z[:, 1]}).loss.backward()
        optimizer.step()
    z = F.normalize(vectors.detach(), dim=2).flatten(0, 1)
    cosine, alike = z @ z.T, (labels[:, None] == labels).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert cosine[alike].mean() > 0.9
    assert cosine[~alike].mean() < 0


def test_the_authors_schedule_runs_almost_like_ours(golden):
    """Theirs is a cosine of the epochs counted from 1, warmed up to its value at epoch 10; ours starts there."""
    g = golden("supcon")
    lr, epochs = g["sched_params"].tolist()
    points = g["sched_points"].tolist()
    steps = points[0][2]
    peak = lr * cosine(10, 0, epochs, 1e-3)
    theirs = [
        peak * after_warmup((epoch - 1) * steps + batch, constant, 10 * steps, 0.01 / peak)
        if epoch <= 10
        else lr * cosine(epoch, 0, epochs, 1e-3)
        for epoch, batch, _ in points
    ]
    np.testing.assert_allclose(theirs, g["sched_lr"], rtol=1e-9)
    optim = OptimConfig(
        "sgd", lr=lr, lr_scaling="none", warmup_epochs=10, start_lr_ratio=0.01 / lr, final_lr_ratio=1e-3
    )
    _, scheduler = optim.build(method().param_groups(), 1024, int(epochs) * steps, steps)
    ours = [lr * scheduler.lr_lambdas[0]((epoch - 1) * steps + batch) for epoch, batch, _ in points]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.01 * lr)


def test_says_what_is_wrong():
    with pytest.raises(UserError, match="base_temperature=0"):
        method(base_temperature=0.0)


def test_several_labels_an_image_are_refused():
    with pytest.raises(UserError, match=r"shape \[4, 10\]"):
        small(SupCon).same_class(torch.zeros(4, 10))
    with pytest.raises(UserError, match="neither all nor one"):
        small(SupCon, contrast_mode="both")
