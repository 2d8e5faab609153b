"""Cells of pictures, against the authors' code and against loops."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from datamodules.errors import UserError
from methods.modules.patches import combine, divide, montage, pool_cells, stagger


def by_cell(x: torch.Tensor) -> torch.Tensor:
    """[B, M, ...] to the authors' rows [M * B, ...]: all images' first cells, then all images' second ones."""
    return x.transpose(0, 1).flatten(0, 1)


@pytest.mark.parametrize("m", [2, 3])
def test_divides_as_the_authors_do(golden, m):
    g = golden("fast_moco")
    assert torch.equal(by_cell(divide(g["divide/x"], m)), g[f"divide/m{m}"])


@pytest.mark.parametrize(("m", "n"), [(2, 1), (2, 2), (2, 3), (2, 4), (3, 2)])
def test_combines_as_the_authors_do(golden, m, n):
    g = golden("fast_moco")
    features = g["combine/features" if m == 2 else "combine/features9"].transpose(0, 1)  # [B, M, D]
    expected = g[f"combine/m{m}_n{n}_mean"]
    torch.testing.assert_close(by_cell(combine(features, n)), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n", [2, 3])
def test_subsets_come_in_the_authors_order(golden, n):
    expected = golden("fast_moco")[f"combine/m2_n{n}_index"]
    one_hot = torch.eye(4)[None]  # a cell's feature says which cell it is
    members = combine(one_hot, n)[0] > 0
    assert torch.equal(members.nonzero()[:, 1].unflatten(0, (-1, n)), expected)


def test_gradient_of_the_combination(golden):
    g = golden("fast_moco")
    features = g["combine/features"].transpose(0, 1).clone().requires_grad_()
    (by_cell(combine(features, 2)) * g["combine/m2_n2_upstream"]).sum().backward()
    assert features.grad is not None
    expected = g["combine/m2_n2_grad_features"].transpose(0, 1)
    torch.testing.assert_close(features.grad, expected, rtol=1e-12, atol=1e-15)


def test_maximum_and_weighted_mean(golden):
    g = golden("fast_moco")
    features = g["combine/features"].transpose(0, 1)
    assert torch.equal(by_cell(combine(features, 2, by="max")), g["combine/derived_m2_n2_max"])
    weighted = by_cell(combine(features, 2, gamma=float(g["combine/derived_gamma"])))
    torch.testing.assert_close(weighted, g["combine/derived_m2_n2_wavg"], rtol=1e-12, atol=1e-15)
    assert torch.equal(combine(features, 2, gamma=0.5), combine(features, 2))
    maximum = torch.stack([features[:, list(s)].amax(1) for s in itertools.combinations(range(4), 3)], 1)
    assert torch.equal(combine(features, 3, by="max"), maximum)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_montage_of_its_own_cells_is_the_picture(m):
    x = torch.randn(2, 3, 12, 18)
    assert torch.equal(montage(divide(x, m), m), x)


def test_staggered_cells_come_back_and_meet_strangers():
    image = torch.arange(5).expand(4, 5).T  # [B, M], each cell knows its image
    dealt = stagger(image, 1)
    assert all(len(set(picture.tolist())) == 4 for picture in dealt)
    assert torch.equal(stagger(dealt, -1), image)
    assert torch.equal(dealt[3], torch.tensor([3, 2, 1, 0]))


@pytest.mark.parametrize("side", [4, 6])
def test_pooled_cells_are_the_means_of_their_pixels(side):
    x = torch.randn(2, 5, side, side, dtype=torch.float64)
    torch.testing.assert_close(pool_cells(x, 2), divide(x, 2).mean((3, 4)), rtol=1e-12, atol=1e-14)


def test_a_map_that_does_not_divide_is_resized_first():
    x = torch.randn(2, 5, 7, 7, dtype=torch.float64)
    resized = F.interpolate(x, (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pool_cells(x, 2), divide(resized, 2).mean((3, 4)), rtol=1e-12, atol=1e-14)


def test_says_which_size_divides():
    with pytest.raises(UserError, match="15 x 15 pixels do not divide into 2 x 2"):
        divide(torch.zeros(1, 3, 15, 15), 2)
