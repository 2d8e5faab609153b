"""RandAugment against torchvision's, operation by operation, and its draws against their distribution."""

import pytest
import torch
from scipy.stats import chisquare
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandAugment

from datamodules.augment import Augment, ViewSpec, recipe
from datamodules.augment.rand_augment import OPERATIONS, rand_augment
from datamodules.errors import UserError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def photos(count, size=24, channels=3):
    """Smooth uint8 images."""
    coarse = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear").mul(255).to(torch.uint8)


def torchvisions(image, name, sign, magnitude):
    """One image through torchvision's operation of this name, with the magnitude that its table gives."""
    official = RandAugment(magnitude=magnitude, interpolation=InterpolationMode.BILINEAR)
    magnitudes, signed = official._AUGMENTATION_SPACE[name]
    table = magnitudes(official.num_magnitude_bins, *image.shape[1:])
    strength = 0.0 if table is None else float(table[magnitude]) * (sign if signed else 1)
    return official._apply_image_or_video_transform(image, name, strength, official.interpolation, official._fill)


def test_the_operations_are_torchvisions():
    names = [name for name, _, _ in OPERATIONS]
    assert {name: names.count(name) for name in names} == dict.fromkeys(RandAugment._AUGMENTATION_SPACE, 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0, 9, 17, 30])
def test_each_operation_equals_torchvisions_image_by_image(magnitude, channels):
    images = photos(3, channels=channels)
    for place, (name, _, sign) in enumerate(OPERATIONS):
        sizes = [len(images) * (i == place) for i in range(len(OPERATIONS))]
        ours = rand_augment(images / 255, [(torch.arange(len(images)), sizes)], magnitude)
        theirs = torch.stack([torchvisions(image, name, sign, magnitude) for image in images])
        difference = (ours * 255 - theirs).abs().max()
        assert difference < 1.01, (name, sign)  # of 255; a batch is interpolated in another order of sums


def test_a_view_is_the_operations_drawn_for_it_in_their_order():
    spec = ViewSpec(size=24, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, rand_augment=2)
    images, index = photos(40), torch.arange(40)
    augment = Augment([spec], MEAN, STD, seed=3)
    draws = augment.draw(0, index, (24, 24))
    (views,), _ = augment(images, draws)
    expected = images.clone()
    for rows, sizes in draws[0].operations:
        drawn = torch.repeat_interleave(torch.arange(len(OPERATIONS)), torch.tensor(sizes))
        for row, operation in zip(rows.tolist(), drawn.tolist(), strict=True):
            name, _, sign = OPERATIONS[operation]
            expected[row] = torchvisions(expected[row], name, sign, spec.rand_magnitude)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    torch.testing.assert_close(views, (expected / 255 - mean) / std, atol=1e-5, rtol=0)


def test_operations_are_equally_likely_and_leave_all_other_draws_alone():
    plain, changed = (
        ViewSpec(size=16, jitter=0.8, brightness=0.4),
        ViewSpec(size=16, jitter=0.8, brightness=0.4, rand_augment=2),
    )
    index = torch.arange(6000)
    draws = [Augment([spec], MEAN, STD, seed=0).draw(0, index, (16, 16))[0] for spec in (plain, changed)]
    assert torch.equal(draws[0].box, draws[1].box) and torch.equal(draws[0].blends, draws[1].blends)
    assert draws[0].operations == [] and len(draws[1].operations) == 2
    for rows, sizes in draws[1].operations:
        assert sorted(rows.tolist()) == index.tolist()
        assert chisquare(sizes).pvalue > 1e-3
    (first, _), (second, _) = draws[1].operations
    assert not torch.equal(first, second)


def test_an_images_draws_do_not_depend_on_its_batch():
    spec = recipe("rand_augment", 24)[0]
    augment = Augment([spec], MEAN, STD, seed=0)
    images, index = photos(16), torch.arange(16)
    (whole,), _ = augment(images, augment.draw(5, index, (24, 24)))
    part = index[9:13]
    (again,), _ = augment(images[part], augment.draw(5, part, (24, 24)))
    torch.testing.assert_close(again, whole[part], atol=1e-6, rtol=0)


def test_spectral_images_are_refused():
    with pytest.raises(UserError, match="5 channels"):
        Augment(recipe("rand_augment", 24), [0.5] * 5, [0.2] * 5, seed=0)
    with pytest.raises(UserError, match="rand_magnitude is 31"):
        ViewSpec(size=24, rand_augment=2, rand_magnitude=31)
