"""Background removal: how often, what it becomes, and that nothing else notices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules.augment import Augment, ViewSpec, recipe
from datamodules.augment.draws import view_numbers
from datamodules.augment.photometry import Normalize

LEVEL = 1 / 255
MEAN = (0.5, 0.4, 0.3)
CROP = ViewSpec(size=32, background_removal=0.5)
PLAIN = replace(CROP, background_removal=0.0)


def disc(height: int, width: int) -> torch.Tensor:
    """[1, height, width] uint8: 255 within half of the image's extent."""
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    return ((y**2 + x**2 < 0.5) * 255).byte()[None]


def masked(count: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    """[count, channels + 1, height, width] uint8, smooth images and the disc."""
    torch.manual_seed(0)
    coarse = torch.randn(count, channels, height // 8, width // 8)
    images = (F.interpolate(coarse, (height, width), mode="bicubic") * 30 + 128).clamp(0, 255).byte()
    return torch.cat((images, disc(height, width).expand(count, -1, -1, -1)), dim=1)


def augment(*specs: ViewSpec, channels: int = 3) -> Augment:
    """Without normalisation beyond the mean, which the fill is about."""
    return Augment(list(specs), MEAN[:channels], (1.0,) * channels, seed=1)


def test_how_often_over_views_and_images():
    """10,000 draws for each of two large views, none for the small ones, independent of one another."""
    first, second, *small = augment(*recipe("relicv2", 32)).draw(3, torch.arange(10_000))
    for drawn in (first, second):
        assert abs(len(drawn.removal) / 10_000 - 0.1) < 0.01
    both = set(first.removal.tolist()) & set(second.removal.tolist())
    assert abs(len(both) / 10_000 - 0.01) < 0.004
    assert len(small) == 6 and all(len(drawn.removal) == 0 for drawn in small)


def test_the_removal_leaves_all_other_draws_alone():
    index = torch.arange(500)
    specs = recipe("byol", 32)
    without = augment(*specs).draw(0, index, (32, 32))
    removing = augment(*(replace(spec, background_removal=0.3) for spec in specs)).draw(0, index, (32, 32))
    for a, b in zip(without, removing, strict=True):
        assert len(b.removal) and not len(a.removal)
        for name in a._fields:
            old, new = getattr(a, name), getattr(b, name)
            if name in ("hue_after", "operations"):
                assert all(torch.equal(x, y) for x, y in zip(old, new, strict=True))
            elif name not in ("removal", "fill"):
                assert torch.equal(old, new), name


def test_its_numbers_are_independent_of_all_others():
    numbers = np.concatenate(list(view_numbers([CROP, CROP], 0, 0, torch.arange(4000))), axis=1)
    within = np.corrcoef(numbers, rowvar=False) - np.eye(numbers.shape[1])
    assert numbers.shape[1] == 2 * 38 and abs(within).max() < 5 / 4000**0.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("background", ["mean", "gray", "black", "random"])
def test_background_is_the_fill_exactly_and_foreground_as_without(background, channels):
    images = masked(60, 32, 32, channels)
    removing = augment(replace(CROP, background=background), channels=channels)
    draws = removing.draw(0, torch.arange(60), (32, 32))
    (view,), _ = removing(images, draws)
    (crop,), _ = augment(PLAIN, channels=channels)(images, draws)
    mask_alone = Augment([PLAIN], (0.0,), (1.0,), seed=1)
    (mask,), _ = mask_alone(images[:, -1:].contiguous(), draws)

    foreground = (mask > 0.5).expand(-1, channels, -1, -1)
    (drawn,) = draws
    assert 15 < len(drawn.removal) < 45 and view.shape[1] == channels
    fill = torch.empty(60, channels)
    fill[drawn.removal] = drawn.fill
    for b in range(60):
        if b not in drawn.removal:
            assert torch.equal(view[b], crop[b])
            continue
        assert torch.allclose(view[b][foreground[b]], crop[b][foreground[b]], atol=1e-6)
        colour = {"mean": MEAN, "gray": (0.5,) * 3, "black": (0.0,) * 3, "random": fill[b].tolist()}[background]
        normalised = torch.tensor(colour[:channels]).view(1, channels, 1, 1)
        Normalize(MEAN[:channels], (1.0,) * channels)(normalised)
        background_pixels = view[b][:, ~foreground[b, 0]]
        assert torch.equal(background_pixels, normalised.view(-1, 1).expand_as(background_pixels))
    if background == "mean":
        assert (view[drawn.removal][~foreground[drawn.removal]] == 0).all()
    if background == "random":
        assert drawn.fill.unique().numel() == drawn.fill.numel() and 0.3 < drawn.fill.mean() < 0.7


def test_the_fill_is_jittered_with_the_object():
    jittered = replace(CROP, background_removal=1.0, background="gray", jitter=1.0, brightness=0.4)
    images = masked(40, 32, 32)
    bright = augment(jittered)
    draws = bright.draw(0, torch.arange(40), (32, 32))
    (view,), _ = bright(images, draws)
    factor = draws[0].blends[:, :, 0].prod(dim=1)
    corner = view[:, :, 0, 0] + torch.tensor(MEAN)
    (mask,), _ = Augment([PLAIN], (0.0,), (1.0,), seed=1)(images[:, -1:].contiguous(), draws)
    background = mask[:, 0, 0, 0] <= 0.5
    assert background.any() and factor[background].std() > 0.1
    assert torch.allclose(corner[background], (0.5 * factor[background, None]).expand(-1, 3), atol=1e-5)


@pytest.mark.parametrize("spec", [replace(CROP, background_removal=1.0), *recipe("relicv2", 32)[:1]])
def test_both_ways_agree_but_for_the_rounding(spec):
    images, index = masked(40, 96, 128), torch.arange(40) + 7
    both = augment(replace(spec, jitter=0.0, grayscale=0.0))
    (whole,), _ = both(images, both.draw(2, index, (96, 128)))
    crops = [both.crop(image, 2, int(i))[0] for image, i in zip(images, index, strict=True)]
    assert crops[0].shape == (4, 32, 32)
    (finished,), _ = both.finish([torch.stack(crops)], both.draw(2, index))
    assert whole.shape == finished.shape == (40, 3, 32, 32)
    difference = (whole - finished).abs().amax(dim=1)
    assert (difference > 2 * LEVEL).float().mean() < 2e-3  # where the mask's resized edge is within a rounding of 1/2
    assert difference.median() < LEVEL


def test_a_mask_that_no_view_needs_is_dropped():
    images = masked(6, 32, 48)
    specs = recipe("swav", 32)
    dropping = augment(*specs)
    draws = dropping.draw(0, torch.arange(6), (32, 48))
    for with_mask, without in zip(dropping(images, draws), dropping(images[:, :3], draws), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(with_mask, without, strict=True))
    assert [crop.shape[0] for crop in dropping.crop(images[0], 0, 0)] == [3] * 8
    mixed = augment(*recipe("relicv2", 32))
    assert [crop.shape[0] for crop in mixed.crop(images[0], 0, 0)] == [4] * 2 + [3] * 6


def test_the_corners_that_a_rotation_uncovers_are_background():
    turned = augment(replace(CROP, rotation=45.0, background_removal=1.0))
    images = masked(8, 32, 32)
    images[:, 3] = 255
    (view,), _ = turned(images, turned.draw(0, torch.arange(8), (32, 32)))
    assert (view[:, :, 0, 0] == 0).all(dim=1).any()  # the mean, and not black


def test_images_without_a_mask_are_no_input():
    removing = augment(CROP)
    with pytest.raises(AssertionError, match="3 channels; 3 colours and a mask are needed"):
        removing(masked(2, 32, 32)[:, :3], removing.draw(0, torch.arange(2), (32, 32)))
