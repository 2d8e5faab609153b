"""Rotation prediction against numbers from the authors' code."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules.augment.photometry import Normalize
from datamodules.views import Views
from methods.optim import OptimConfig
from methods.rotation import RotationPrediction, four_rotations
from tests.support.methods import small, to_double, views


class Recorded(nn.Module):
    """Gives recorded logits for whatever batch of the right size."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, images: Tensor) -> Tensor:
        assert len(images) == len(self.logits)
        self.images = images
        return self.logits


def pictures(g: dict[str, Tensor], name: str) -> Tensor:
    return g[name].permute(0, 3, 1, 2)  # recorded [B, H, W, C]


def test_rotations_are_exact_and_ordered_by_image(golden):
    g = golden("rotation")
    turned = four_rotations(pictures(g, "in_images_uint8")).unflatten(0, (-1, 4))
    for turns, angle in enumerate((0, 90, 180, 270)):
        assert torch.equal(turned[:, turns], pictures(g, f"out_rot{angle}"))


def test_a_step(golden):
    """Images, labels (by the loss and its gradient) and accuracy; we normalise first and turn then."""
    g = golden("rotation")
    B = int(g["hp_batch"])
    x = pictures(g, "in_images_uint8")[:B] / 255
    Normalize(g["hp_mean"].tolist(), g["hp_std"].tolist())(x)
    module = small(RotationPrediction)
    module.backbone, module.classifier = Recorded(g["in_logits"]), nn.Identity()  # pyright: ignore
    output = module.step(Views([x], torch.full((B,), -1), torch.arange(B)))
    output.loss.backward()
    torch.testing.assert_close(module.backbone.images, g["out_batch"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(output.loss, g["out_loss"], rtol=1e-9, atol=0)
    torch.testing.assert_close(module.backbone.logits.grad, g["out_grad_logits"], rtol=1e-9, atol=1e-13)
    assert float(output.logs["rotation_accuracy"]) * 100 == pytest.approx(float(g["out_acc_pct"]))
    assert torch.equal(output.features, g["in_logits"][g["out_labels"] == 0])  # of the upright images alone


def test_learning_rates(golden):
    g = golden("rotation")
    (first, lr), *later = g["hp_lr_table"].tolist()
    optim = OptimConfig(
        "sgd",
        lr=lr,
        lr_base_batch=128,
        schedule="steps",
        milestones=[first, *(epoch for epoch, _ in later[:-1])],
        step_factor=0.2,
        warmup_epochs=0,
        options={"momentum": 0.9, "nesterov": True},
    )
    steps = 2
    optimizer, schedule = optim.build(
        small(RotationPrediction, optim=optim).param_groups(), 128, total_steps=steps * 260, steps_per_epoch=steps
    )
    rates = []
    for _ in range(260):
        rates.append(optimizer.param_groups[0]["lr"])
        for _ in range(steps):
            optimizer.step()
            schedule.step()
    actual = np.array(rates)[g["in_epoch"].numpy()]
    np.testing.assert_allclose(actual, g["out_lr"].numpy(), rtol=1e-9)


def test_no_array_of_the_golden_file_is_forgotten(golden):
    images = {"in_images_uint8", "out_rot0", "out_rot90", "out_rot180", "out_rot270", "out_batch", "out_labels"}
    settings = {"hp_batch", "hp_mean", "hp_std", "hp_lr_table", "in_epoch"}
    values = {"in_logits", "out_loss", "out_grad_logits", "out_acc_pct", "out_lr"}
    assert set(golden("rotation")) == images | settings | values


def test_turned_back_they_are_the_image():
    x = torch.rand(3, 3, 5, 5)
    for turns, turned in enumerate(four_rotations(x).unflatten(0, (-1, 4)).unbind(1)):
        assert torch.equal(turned.rot90(-turns, (2, 3)), x)


def test_the_loss_starts_where_guessing_does():
    module = small(RotationPrediction).double()
    nn.init.zeros_(module.classifier.weight)
    nn.init.zeros_(module.classifier.bias)
    assert float(module.step(to_double(views(RotationPrediction))).loss.detach()) == pytest.approx(math.log(4))


def test_all_rotations_of_the_batch_take_one_pass():
    """BatchNorm sees the four together, or its statistics would give the answer away."""
    module, sizes = small(RotationPrediction), []
    module.backbone.register_forward_hook(lambda network, inputs, output: sizes.append(tuple(inputs[0].shape)))
    module.step(views(RotationPrediction, 5))
    assert sizes == [(20, 3, 16, 16)]


def test_watchers_see_upright_images_alone():
    module = small(RotationPrediction).double().eval()
    batch = to_double(views(RotationPrediction))
    torch.testing.assert_close(module.step(batch).features, module(batch.global_views[0]), rtol=1e-9, atol=1e-12)
