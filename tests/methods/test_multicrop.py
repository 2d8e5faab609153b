"""Crops through a network."""

import torch
from torch import Tensor

from methods.multicrop import multi_crop


def test_neighbours_of_equal_size_share_a_pass_and_order_is_kept():
    sizes = [8, 8, 4, 4, 4, 6, 4]
    crops = [torch.full((2, 3, size, size), float(i)) for i, size in enumerate(sizes)]
    passes = []

    def network(images: Tensor) -> Tensor:
        passes.append(tuple(images.shape[::2]))
        return images.mean((2, 3))

    rows = multi_crop(network, crops)
    assert passes == [(4, 8), (6, 4), (2, 6), (2, 4)]
    assert rows[:, 0].tolist() == [float(i) for i in range(7) for _ in range(2)]
