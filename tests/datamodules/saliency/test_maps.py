"""Each map against its paper's formulas, written out node by node."""

import itertools

import numpy as np
import pytest
from scipy.sparse.csgraph import shortest_path

from datamodules.saliency.maps import absorbing_chain, border_map, manifold_ranking, robust_background, scaled
from datamodules.saliency.superpixels import Superpixels, superpixels


@pytest.fixture(scope="module")
def graph() -> Superpixels:
    image = np.random.default_rng(1).integers(90, 120, (30, 40, 3), dtype=np.uint8)
    image[8:20, 12:26] += np.array([90, 20, 0], dtype=np.uint8)
    return superpixels(image, 6)


def near_pairs(graph: Superpixels) -> list[tuple[int, int]]:
    """Pairs that touch, that share a neighbour, or that both lie at the border."""
    K = len(graph.border)
    return [
        (i, j)
        for i, j in itertools.permutations(range(K), 2)
        if graph.adjacent[i, j]
        or any(graph.adjacent[i, k] and graph.adjacent[k, j] for k in range(K))
        or (graph.border[i] and graph.border[j])
    ]


def weights(graph: Superpixels) -> np.ndarray:
    """[K, K] of MR and MC."""
    colour = (graph.colour - graph.colour.min(axis=0)) / np.ptp(graph.colour, axis=0)
    weight = np.zeros((len(colour),) * 2)
    for i, j in near_pairs(graph):
        weight[i, j] = np.exp(-np.linalg.norm(colour[i] - colour[j]) / 0.1)
    return weight


def test_robust_background(graph):
    K = len(graph.border)
    apart = np.array([[np.linalg.norm(a - b) for b in graph.colour] for a in graph.colour])
    edges = np.full((K, K), np.inf)
    for i, j in itertools.permutations(range(K), 2):
        if graph.adjacent[i, j] or (graph.border[i] and graph.border[j]):
            edges[i, j] = max(apart[i, j], 1e-12)
    geodesic = shortest_path(np.where(np.isinf(edges), 0, edges))
    area = [sum(np.exp(-(geodesic[p, i] ** 2) / 200) for i in range(K)) for p in range(K)]
    length = [sum(np.exp(-(geodesic[p, i] ** 2) / 200) for i in range(K) if graph.border[i]) for p in range(K)]
    background = [1 - np.exp(-((length[p] / area[p] ** 0.5) ** 2) / 2) for p in range(K)]
    place = graph.place
    contrast = [
        sum(apart[p, i] * np.exp(-np.sum((place[p] - place[i]) ** 2) / (2 * 0.25**2)) * background[i] for i in range(K))
        for p in range(K)
    ]
    foreground = scaled(np.array(contrast))
    found = robust_background(graph)
    pairs = [(i, j, np.exp(-(apart[i, j] ** 2) / 200) + 0.1) for i, j in near_pairs(graph)]
    for k in range(K):  # at the minimum of eq. (9) the slope is zero
        slope = background[k] * found[k] + foreground[k] * (found[k] - 1)
        slope += sum(weight * (found[i] - found[j]) for i, j, weight in pairs if i == k)
        assert abs(slope) < 1e-9


def test_manifold_ranking(graph):
    weight = weights(graph)
    ranking = np.linalg.inv(np.diag(weight.sum(axis=1)) - 0.99 * weight)
    ranking -= np.diag(np.diag(ranking))
    unlike = np.ones(len(weight))
    for side in (graph.label[0], graph.label[-1], graph.label[:, 0], graph.label[:, -1]):
        query = np.array([float(k in side) for k in range(len(weight))])
        unlike *= 1 - scaled(ranking @ query)
    want = ranking @ (unlike >= unlike.mean()).astype(float)
    assert np.allclose(manifold_ranking(graph), want)


def test_absorbing_chain_counts_the_steps_to_the_border(graph):
    """The chain with the absorbing twins as nodes of their own."""
    weight = weights(graph)
    K, border = len(weight), np.flatnonzero(graph.border)
    whole = np.zeros((K, K + len(border)))
    whole[:, :K] = weight
    for twin, original in enumerate(border):
        whole[:, K + twin] = weight[:, original]
        whole[original, K + twin] = 1
    chance = whole / whole.sum(axis=1, keepdims=True)
    found = absorbing_chain(graph)
    for k in range(K):  # one step, and then as many as from where it leads; none from a twin
        assert np.isclose(found[k], 1 + chance[k] @ np.append(found, np.zeros(len(border))))


def test_border_map_is_a_distance_in_standard_deviations(graph):
    border = graph.colour[graph.border]
    precision = np.linalg.inv(np.cov(border.T) + np.eye(3))
    for k, found in enumerate(border_map(graph)):
        away = graph.colour[k] - border.mean(axis=0)
        assert np.isclose(found, np.sqrt(away @ precision @ away))


@pytest.mark.parametrize("saliency_map", [robust_background, manifold_ranking, absorbing_chain, border_map])
def test_the_object_stands_out(graph, saliency_map):
    found = scaled(saliency_map(graph))[graph.label]
    assert found[10:18, 14:24].mean() > 0.6 > 0.4 > found[[0, -1]].mean()
    one_colour = superpixels(np.full((12, 12, 3), 7, dtype=np.uint8), 4)
    assert np.isfinite(saliency_map(one_colour)).all()


def test_scaled():
    assert scaled(np.array([2.0, 4.0, 3.0])).tolist() == [0.0, 1.0, 0.5]
    assert scaled(np.array([2.0, 2.0])).tolist() == [0.0, 0.0]
