"""Four classical saliency maps on a graph of superpixels, none of which has learned anything.

All rest on one observation: what touches the image's border is mostly background. Each returns [K], higher where the
foreground is; the scale means nothing.
"""

import numpy as np

from datamodules.saliency.superpixels import Superpixels

_COLOUR_SIGMA = 10.0  # Lab; RBD's sigma_clr
_SPATIAL_SIGMA = 0.25  # of the longer side; RBD's sigma_spa
_SMOOTHNESS = 0.1  # RBD's mu
_EDGE_SIGMA = 0.1  # of MR and MC, on Lab scaled to [0, 1]; MR's sigma² = 0.1 divides the unsquared distance
_ALPHA = 0.99  # MR


def border_map(graph: Superpixels) -> np.ndarray:
    """Distance of the colour from the border's colours, in their standard deviations (Mahalanobis)."""
    border = graph.colour[graph.border]
    spread = np.cov(border.T) if len(border) > 1 else np.zeros((3, 3))
    precision = np.linalg.inv(spread + np.eye(3))  # the unit matrix: borders of one colour have no spread
    away = graph.colour - border.mean(axis=0)
    return np.sqrt(np.einsum("kc,cd,kd->k", away, precision, away))


def robust_background(graph: Superpixels) -> np.ndarray:
    """Contrast with what is connected to the border, then smoothed by least squares (RBD).

    Zhu et al., "Saliency optimization from robust background detection", CVPR 2014, eqs. (4) to (9).
    """
    colour = _distances(graph.colour)
    soft = np.exp(-(_geodesics(graph, colour) ** 2) / (2 * _COLOUR_SIGMA**2))
    connectivity = soft[:, graph.border].sum(axis=1) / np.sqrt(soft.sum(axis=1))
    background = 1 - np.exp(-(connectivity**2) / 2)
    near = np.exp(-(_distances(graph.place) ** 2) / (2 * _SPATIAL_SIGMA**2))
    foreground = scaled((colour * near) @ background)

    smooth = np.where(_around(graph), np.exp(-(colour**2) / (2 * _COLOUR_SIGMA**2)) + _SMOOTHNESS, 0.0)
    laplacian = np.diag(smooth.sum(axis=1)) - smooth
    return np.linalg.solve(laplacian + np.diag(background + foreground), foreground)


def manifold_ranking(graph: Superpixels) -> np.ndarray:
    """Unlikeness to each of the four sides, then likeness to what that marks (MR).

    Yang et al., "Saliency detection via graph-based manifold ranking", CVPR 2013, eqs. (3) to (7).
    """
    weight = _affinity(graph)
    ranking = np.linalg.inv(np.diag(weight.sum(axis=1)) - _ALPHA * weight)
    np.fill_diagonal(ranking, 0)  # a query does not rank itself
    label = graph.label
    unlike = np.ones(len(graph.border))
    for side in (label[0], label[-1], label[:, 0], label[:, -1]):
        unlike *= 1 - scaled(ranking[:, np.unique(side)].sum(axis=1))
    return ranking @ (unlike >= unlike.mean())


def absorbing_chain(graph: Superpixels) -> np.ndarray:
    """Steps that a random walk takes until it is absorbed at the border (MC).

    Jiang et al., "Saliency detection via absorbing Markov chain", ICCV 2013, eqs. (1) to (7); without its correction
    for long-lived background in the centre.
    """
    weight = _affinity(graph)
    # each border superpixel has an absorbing twin, which its neighbours and itself reach as they reach the original
    to_twins = weight[:, graph.border].sum(axis=1) + graph.border
    degree = weight.sum(axis=1) + to_twins
    return np.linalg.solve(np.diag(degree) - weight, degree)  # (I - Q)^-1 1 with Q = weight / degree


def scaled(values: np.ndarray) -> np.ndarray:
    """Minimum to 0, maximum to 1; zeros where all are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _distances(points: np.ndarray) -> np.ndarray:
    """[K, K]: Euclidean distances of [K, d]."""
    return np.sqrt(np.square(points[:, None] - points[None]).sum(axis=2))


def _around(graph: Superpixels) -> np.ndarray:
    """[K, K] bool: neighbours, their neighbours, and all pairs at the border; the graph of RBD, MR and MC."""
    touches = graph.adjacent.astype(np.float32)
    near = graph.adjacent | (touches @ touches > 0) | np.outer(graph.border, graph.border)
    np.fill_diagonal(near, False)
    return near


def _affinity(graph: Superpixels) -> np.ndarray:
    """[K, K]: likeness of the colours of superpixels that are near one another, else 0."""
    colour = np.stack([scaled(channel) for channel in graph.colour.T], axis=1)
    return np.where(_around(graph), np.exp(-_distances(colour) / _EDGE_SIGMA), 0.0)


def _geodesics(graph: Superpixels, colour: np.ndarray) -> np.ndarray:
    """[K, K]: the least sum of colour differences on a way between two superpixels (Floyd and Warshall).

    Along the border every step is allowed, so that an object on it does not cut the background in two.
    """
    steps = graph.adjacent | np.outer(graph.border, graph.border)
    way = np.where(steps, colour, np.inf)
    np.fill_diagonal(way, 0)
    for via in range(len(way)):
        np.minimum(way, way[:, via, None] + way[via], out=way)
    return way
