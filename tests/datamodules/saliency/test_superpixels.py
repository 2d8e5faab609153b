"""The graph of superpixels: a partition that keeps to places and edges, with its neighbours."""

import numpy as np
import pytest

from datamodules.saliency.superpixels import lab, superpixels


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("rgb", "want"),  # published values, D65
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((10, 10, 10), (2.74, 0.0, 0.0)),
    ],
)
def test_colours_in_lab(rgb, want):
    assert np.allclose(lab(np.array([[rgb]], dtype=np.uint8))[0, 0], want, atol=0.05)


@pytest.mark.parametrize("size", [(32, 32), (40, 72), (5, 3)])
def test_a_graph_is_what_its_labels_say(size):
    image = noise(*size)
    graph = superpixels(image, 4)
    H, W = size
    K = len(graph.border)
    assert sorted(np.unique(graph.label)) == list(range(K))
    touching = np.zeros((K, K), dtype=bool)
    for y in range(H):
        for x in range(W):
            for there in ((y + 1, x), (y, x + 1)):
                if there[0] < H and there[1] < W and graph.label[y, x] != graph.label[there]:
                    touching[graph.label[y, x], graph.label[there]] = touching[
                        graph.label[there], graph.label[y, x]
                    ] = 1
    assert np.array_equal(graph.adjacent, touching)
    places, colours = np.mgrid[:H, :W].transpose(1, 2, 0), lab(image)
    for k in range(K):
        inside = graph.label == k
        assert graph.border[k] == (inside[0].any() or inside[-1].any() or inside[:, 0].any() or inside[:, -1].any())
        assert np.allclose(graph.place[k] * max(size), places[inside].mean(axis=0), atol=1e-4)
        assert np.allclose(graph.colour[k], colours[inside].mean(axis=0), atol=1e-3)


def test_flat_images_keep_the_grid_and_others_their_edges():
    flat = superpixels(np.full((32, 32, 3), 90, dtype=np.uint8), 8)
    assert np.array_equal(flat.label, np.arange(4).repeat(8)[:, None] * 4 + np.arange(4).repeat(8))
    halves = np.zeros((32, 32, 3), dtype=np.uint8)
    halves[:, 13:] = (200, 60, 30)
    graph = superpixels(halves, 8)
    for k in range(len(graph.border)):
        inside = halves[graph.label == k, 0]
        assert (inside == inside[0]).all()
