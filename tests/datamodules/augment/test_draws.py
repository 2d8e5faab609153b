"""The drawn parameters against the distributions that the recipes state."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop

from datamodules.augment import Augment, ViewSpec, recipe
from datamodules.augment.draws import draw_box, region_box, view_numbers

B = 4000
ALL = ViewSpec(
    size=32,
    count=2,
    rotation=10.0,
    jitter=0.8,
    brightness=0.4,
    contrast=1.5,
    saturation=0.2,
    hue=0.1,
    grayscale=0.2,
    blur=0.5,
    solarize=0.3,
)


def draw(*specs, index=None, epoch=0, seed=0, channels=3, image_size=(32, 48)):
    augment = Augment(list(specs), [0.5] * channels, [0.2] * channels, seed)
    return augment.draw(epoch, torch.arange(B) if index is None else index, image_size)


@pytest.mark.parametrize("image_size", [(32, 32), (48, 64), (200, 40)])  # the last often needs the central crop
@pytest.mark.parametrize("crop_scale", [(0.08, 1.0), (0.4, 1.0)])
def test_boxes_follow_torchvision(image_size, crop_scale):
    spec = ViewSpec(size=32, crop_scale=crop_scale)
    ours = draw_box(spec, view_numbers([spec], 0, 0, torch.arange(B))[0], image_size)
    torch.manual_seed(0)
    image = torch.empty(3, *image_size)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, list(spec.crop_scale), list(spec.crop_ratio)) for _ in range(B)]
    )
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= image_size).all()
    columns = [
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
        *(lambda box, i=i: box[:, i] for i in range(4)),
    ]
    for column in columns:
        assert ks_2samp(column(ours), column(theirs)).pvalue > 1e-3


def test_the_whole_image_draws_what_it_drew_before_there_were_regions():
    spec = ViewSpec(size=32)
    boxes = draw_box(spec, view_numbers([spec], 0, 0, torch.arange(3))[0], (48, 64))
    assert boxes.tolist() == [[10, 26, 31, 27], [3, 13, 29, 29], [2, 4, 19, 23]]


@pytest.mark.parametrize("region", [(0.2, 0.0, 1.0, 0.8), (0.0, 0.5, 0.25, 1.0)])
def test_boxes_in_a_region_are_those_of_an_image_of_its_size(region):
    spec = ViewSpec(size=32, region=region)
    numbers = view_numbers([spec], 0, 0, torch.arange(B))[0]
    top, left, height, width = region_box(region, (40, 60))
    boxes = draw_box(spec, numbers, (40, 60))
    alone = draw_box(ViewSpec(size=32), numbers, (height, width))
    assert (boxes == alone + np.array([top, left, 0, 0])).all()
    assert boxes[:, 0].min() == top and (boxes[:, 0] + boxes[:, 2]).max() == top + height
    assert boxes[:, 1].min() == left and (boxes[:, 1] + boxes[:, 3]).max() == left + width


def test_the_corner_boxes_of_jigclu(golden):
    g = golden("jigclu")
    image_width, image_height = g["crop/image_width_height"].tolist()
    quarters = [(y, x, y + 0.5, x + 0.5) for x in (0.0, 0.5) for y in (0.0, 0.5)]
    overlapping = [spec.region for spec in recipe("jigclu", 224)]
    for name, regions in (("cross0", quarters), ("cross3", overlapping)):
        boxes = [region_box(region, (image_height, image_width)) for region in regions]
        edges = [[left, top, left + width, top + height] for top, left, height, width in boxes]
        assert edges == g[f"crop/{name}_boxes_x0_y0_x1_y1"].tolist()


def test_a_region_of_a_tiny_image_has_a_pixel():
    assert region_box((0.99, 0.0, 1.0, 0.01), (4, 4)) == (3, 0, 1, 1)


def test_where_no_try_fits_the_crop_is_central():
    spec = ViewSpec(size=32, crop_scale=(1.0, 1.0))
    for height, width, box in [(100, 20, (36, 0, 27, 20)), (20, 100, (0, 36, 20, 27))]:
        assert (draw_box(spec, view_numbers([spec], 0, 0, torch.arange(9))[0], (height, width)) == box).all()


def test_probabilities_and_ranges():
    first, second = draw(ALL)
    for drawn in (first, second):
        shares = {
            "flip": drawn.flip.float().mean().item(),
            "jitter": sum(map(len, drawn.hue_after)) / B,
            "grayscale": len(drawn.grayscale) / B,
            "blur": len(drawn.blur) / B,
            "solarize": len(drawn.solarize) / B,
        }
        for name, share in shares.items():
            p = getattr(ALL, name)
            assert abs(share - p) < 4 * (p * (1 - p) / B) ** 0.5, name
        assert kstest(drawn.angle.numpy(), "uniform", (-10, 20)).pvalue > 1e-3
        assert kstest(drawn.hue.numpy(), "uniform", (-0.1, 0.2)).pvalue > 1e-3
        assert kstest(drawn.sigma.numpy(), "uniform", (0.1, 1.9)).pvalue > 1e-3


def test_jitter_factors_and_their_order():
    (drawn,) = draw(replace(ALL, count=1, jitter=1.0))
    a, b, c = drawn.blends.unbind(2)  # each [B, 3]
    assert torch.allclose(a + b + c, torch.where((b == 0) & (c == 0), a, torch.ones(())))
    operation = torch.where(c != 0, 1, torch.where(b != 0, 2, 0))  # brightness 0, contrast 1, saturation 2
    assert (operation.sort(dim=1).values == torch.arange(3)).all()
    factor = torch.empty(B, 3).scatter_(1, operation, a)
    for column, (low, width) in enumerate([(0.6, 0.8), (0.0, 2.5), (0.8, 0.4)]):
        assert kstest(factor[:, column].numpy(), "uniform", (low, width)).pvalue > 1e-3
    hue_after = torch.empty(B, dtype=torch.long)
    for position, rows in enumerate(drawn.hue_after):
        hue_after[rows] = position
    orders = [tuple(row) for row in torch.cat((operation, hue_after[:, None]), dim=1).tolist()]
    counts = [orders.count((*p, h)) for p in itertools.permutations(range(3)) for h in range(4)]
    assert chisquare(counts).pvalue > 1e-3


def test_images_views_epochs_and_seeds_are_independent():
    numbers = view_numbers([ALL, ALL], 0, 0, torch.arange(B))
    others = [
        numbers[0],
        numbers[1],
        view_numbers([ALL], 0, 1, torch.arange(B))[0],
        view_numbers([ALL], 1, 0, torch.arange(B))[0],
    ]
    others.append(np.roll(numbers[0], 1, axis=0))
    for one, other in itertools.combinations(others, 2):
        for i, j in ((0, 0), (22, 22), (24, 30), (22, 31)):
            assert abs(np.corrcoef(one[:, i], other[:, j])[0, 1]) < 4.5 / B**0.5
    within = np.corrcoef(numbers[0], rowvar=False) - np.eye(numbers.shape[2])
    assert abs(within).max() < 5 / B**0.5


def test_a_draw_depends_on_its_image_alone():
    index = torch.tensor([7, 3, 900, 3])
    (batch, _), (alone, _) = draw(ALL, index=index), draw(ALL, index=index[1:2])
    for name in ("box", "flip", "angle", "blends", "hue", "sigma"):
        value = getattr(batch, name)
        assert torch.equal(value[1], getattr(alone, name)[0]) and torch.equal(value[1], value[3]), name
        assert not torch.equal(value[0], value[2]) or name == "flip", name
    for name in ("grayscale", "blur", "solarize"):
        assert (1 in getattr(batch, name)) == (len(getattr(alone, name)) == 1), name


def test_switching_an_operation_off_leaves_the_others_alone():
    with_all, without = draw(ALL)[0], draw(replace(ALL, flip=0.0, hue=0.0, grayscale=0.0))[0]
    assert torch.equal(with_all.box, without.box) and torch.equal(with_all.blends, without.blends)
    assert torch.equal(with_all.blur, without.blur) and torch.equal(with_all.solarize, without.solarize)
    assert without.hue is None and not without.flip.any() and len(without.grayscale) == 0


def test_images_without_three_channels_have_no_colour_operations():
    drawn = draw(ALL, channels=1)[0]
    assert drawn.hue is None and len(drawn.grayscale) == 0
    assert (drawn.blends[:, :, 1] == 0).all() and (drawn.blends[:, :, 2] != 0).any()  # no saturation, but contrast


def test_no_boxes_without_an_image_size():
    assert all(drawn.box is None for drawn in draw(*recipe("swav", 32), image_size=None))
