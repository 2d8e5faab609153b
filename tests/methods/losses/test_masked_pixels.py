"""The pixel loss against the authors' numbers and a plain loop."""

import pytest
import torch

from methods.losses.masked_pixels import masked_pixel_error
from methods.modules.masking import patchify

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


@pytest.mark.parametrize(
    ("images", "norm_pix", "expected"),
    [
        ("in_images", False, "out_loss_standalone_raw"),
        ("in_images", True, "out_loss_standalone_norm"),
        ("in_images_flatpatch", True, "out_loss_standalone_norm_flatpatch"),  # a patch of one colour
    ],
)
def test_unequal_numbers_of_hidden_patches(golden, images, norm_pix, expected):
    g = golden("mae")
    patches = patchify(g[images], (4, 4))
    loss = masked_pixel_error(g["in_pred_standalone"], patches, g["in_mask_standalone"].bool(), norm_pix)
    torch.testing.assert_close(loss, g[expected], **CLOSE)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_against_a_plain_loop(norm_pix):
    prediction, patches = torch.randn(2, 3, 5, 12, dtype=torch.float64)
    hidden = torch.rand(3, 5) < 0.6
    errors = []
    for b, patch in hidden.nonzero().tolist():
        target = patches[b, patch]
        if norm_pix:
            deviations = target - target.sum() / 12
            target = deviations / ((deviations**2).sum() / 11 + 1e-6) ** 0.5
        errors.append(sum((p - t) ** 2 for p, t in zip(prediction[b, patch], target, strict=True)) / 12)
    loss = masked_pixel_error(prediction, patches, hidden, norm_pix)
    torch.testing.assert_close(loss, sum(errors) / torch.tensor(len(errors)), **CLOSE)


def test_visible_patches_get_no_gradient():
    prediction = torch.randn(2, 6, 12, requires_grad=True)
    hidden = torch.rand(2, 6) < 0.5
    masked_pixel_error(prediction, torch.randn(2, 6, 12), hidden, True).backward()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad.any(-1), hidden)


def test_guessing_each_patchs_mean_costs_about_one_with_norm_pix():
    patches = torch.randn(8, 16, 48) * 3 + 1
    hidden = torch.ones(8, 16, dtype=torch.bool)
    assert masked_pixel_error(torch.zeros(8, 16, 48), patches, hidden, True) == pytest.approx(47 / 48, rel=1e-4)


def test_half_precision_is_widened():
    prediction, patches = torch.randn(2, 4, 6, 12).bfloat16()
    hidden = torch.ones(4, 6, dtype=torch.bool)
    loss = masked_pixel_error(prediction, patches, hidden, True)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, masked_pixel_error(prediction.float(), patches.float(), hidden, True))
