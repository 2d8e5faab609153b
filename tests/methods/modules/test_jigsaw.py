"""The jigsaw's patches: against the reimplementation's recorded ones, and in their distribution."""

import pytest
import torch

from datamodules.errors import UserError
from methods.modules.jigsaw import NUMBERS, corners, cut, jigsaw


def test_cells_in_the_recorded_order(golden):
    """The numbers that stand for the recorded order give the recorded patches."""
    g = golden("detco")
    images, recorded = g["jigsaw/x"], g["jigsaw/patches"].unflatten(0, (9, 2))  # patch by patch, two images each
    row, column = g["jigsaw/cell_row_col"].long().T
    rank_of_cell = (3 * row + column).argsort()  # which patch a cell becomes
    numbers = torch.zeros(2, NUMBERS)
    numbers[:, :9] = rank_of_cell / 9
    patches = cut(images, corners(numbers, cell=9, size=9), size=9)
    assert torch.equal(patches.transpose(0, 1), recorded)


def test_smaller_patches_at_the_recorded_places(golden):
    """Each recorded patch begins where some number in [0, 1) puts it, and holds the pixels from there."""
    g = golden("detco")
    images = g["jigsaw/x"]  # channel 0 counts columns, channel 1 rows
    place = g["jigsaw/patches_crop6_x0_y0"].unflatten(0, (9, 2)).transpose(0, 1).flip(2).long()  # [2, 9, (row, column)]
    cell, offset = place // 9, place % 9
    order = 3 * cell[..., 0] + cell[..., 1]
    numbers = torch.cat([order.argsort(1) / 9, ((offset + 0.5) / 4).flatten(1)], dim=1)  # 0 to 9 - 6: four places
    assert torch.equal(corners(numbers, cell=9, size=6), place)
    patches = cut(images, place, size=6)  # [2, 9, 3, 6, 6]
    assert torch.equal(patches[:, :, :2, 0, 0].flip(2), place.to(patches.dtype))
    assert torch.equal(patches[:, :, 0, 0, -1], patches[:, :, 0, 0, 0] + 5)
    assert torch.equal(patches[:, :, 1, -1, 0], patches[:, :, 1, 0, 0] + 5)


@pytest.mark.parametrize(("side", "patch"), [(255, 64), (30, 8), (15, 4), (16, 4), (3, 1)])
def test_a_patch_is_three_quarters_of_a_cell(side, patch):
    assert jigsaw(torch.zeros(2, 1, side, side), torch.rand(2, NUMBERS)).shape == (2, 9, 1, patch, patch)


def test_every_order_and_place_is_equally_likely():
    """20,000 images: each cell goes to each slot, each offset is drawn, as often as any other, to 5 sigma."""
    N, cell, size = 20_000, 4, 2
    where = corners(torch.rand(N, NUMBERS), cell, size)
    order = where[..., 0] // cell * 3 + where[..., 1] // cell
    assert torch.equal(order.sort(1).values, torch.arange(9).expand(N, 9))
    in_slot = torch.stack([(order == c).sum(0) for c in range(9)]) / N
    assert (in_slot - 1 / 9).abs().max() < 5 * (1 / 9 * 8 / 9 / N) ** 0.5
    offsets = where % cell
    assert offsets.max() == cell - size
    assert (torch.stack([(offsets == o).float().mean(0) for o in range(3)]) - 1 / 3).abs().max() < 5 * (
        2 / 9 / N
    ) ** 0.5
    assert (offsets[:, 0].float().T.corrcoef()[0, 1]).abs() < 0.05  # rows and columns apart
    assert torch.stack([offsets[:, 0, 0], offsets[:, 1, 0]]).float().corrcoef()[0, 1].abs() < 0.05  # patches apart


def test_images_have_places_of_their_own():
    """The order and places of one image depend on its numbers alone, and the cut on its pixels alone."""
    images, numbers = torch.randn(4, 2, 12, 12), torch.rand(4, NUMBERS)
    together = jigsaw(images, numbers)
    alone = torch.cat([jigsaw(images[i : i + 1], numbers[i : i + 1]) for i in range(4)])
    assert torch.equal(together, alone)
    assert len({tuple(w.flatten().tolist()) for w in corners(numbers, 4, 3)}) == 4


def test_views_too_small_for_nine_cells():
    with pytest.raises(UserError, match="local view of .2, 2. pixels"):
        jigsaw(torch.zeros(1, 3, 2, 2), torch.rand(1, NUMBERS))
