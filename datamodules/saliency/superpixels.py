"""An image as a graph of some hundred superpixels."""

from dataclasses import dataclass

import numpy as np

_COMPACTNESS = 20.0  # distance in Lab that weighs as much as one cell's side in the plane
_ITERATIONS = 5  # the paper's 10 change little more

# sRGB to CIE XYZ, divided by the white point D65: a gray has three equal values.
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_TO_XYZ /= _TO_XYZ.sum(axis=1, keepdims=True)
_SRGB = np.arange(256) / 255
_LINEAR = np.where(_SRGB > 0.04045, ((_SRGB + 0.055) / 1.055) ** 2.4, _SRGB / 12.92)  # intensity of each of 256 levels


@dataclass
class Superpixels:
    """K superpixels and who touches whom.

    Attributes:
        label: [H, W] int64, superpixel of each pixel.
        colour: [K, 3], mean CIE Lab.
        place: [K, 2], centroid; 1 is the longer side of the image.
        border: [K] bool, whether it touches the image's border.
        adjacent: [K, K] bool, symmetric, without the diagonal.
    """

    label: np.ndarray
    colour: np.ndarray
    place: np.ndarray
    border: np.ndarray
    adjacent: np.ndarray


def lab(image: np.ndarray) -> np.ndarray:
    """CIE Lab [H, W, 3] of an sRGB image [H, W, 3] uint8: lightness 0 to 100, two colour axes about -100 to 100."""
    xyz = _LINEAR[image] @ _TO_XYZ.T
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)


def superpixels(image: np.ndarray, cell: int) -> Superpixels:
    """Segments an image by k-means on colour and place, from centres on a grid.

    Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods", TPAMI 2012. Differs from it in
    that a pixel chooses among the centres of its own and the eight neighbouring cells of the grid instead of among all
    within a window, and that stray pixels stay with their colour instead of going to a neighbour.

    Args:
        image: [H, W, 3] uint8.
        cell: side of a cell of the grid, in pixels; about H W / cell² superpixels.
    """
    H, W = image.shape[:2]
    rows, columns = max(1, round(H / cell)), max(1, round(W / cell))
    y, x = np.mgrid[:H, :W].reshape(2, -1)
    cell_y, cell_x = y * rows // H, x * columns // W
    pixels = np.column_stack((lab(image).reshape(-1, 3) / _COMPACTNESS, y / cell, x / cell)).astype(np.float32)

    around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    candidates = np.array(
        [(cell_y + dy).clip(0, rows - 1) * columns + (cell_x + dx).clip(0, columns - 1) for dy, dx in around]
    )  # [9, H * W]
    distance = np.empty(candidates.shape, dtype=np.float32)
    label = cell_y * columns + cell_x
    for _ in range(_ITERATIONS):
        centre = _means(pixels, label, rows * columns)
        for squared, candidate in zip(distance, candidates, strict=True):
            away = pixels - centre[candidate]
            np.einsum("pd,pd->p", away, away, out=squared)
        label = np.take_along_axis(candidates, distance.argmin(axis=0)[None], axis=0)[0]
    _, label = np.unique(label, return_inverse=True)  # some centres may have lost all their pixels
    return _graph(label.reshape(H, W), pixels, cell)


def _means(values: np.ndarray, label: np.ndarray, count: int) -> np.ndarray:
    """[count, d]: the mean of `values` [N, d] for each label; zeros where there is none."""
    size = np.bincount(label, minlength=count).clip(min=1)
    return np.stack([np.bincount(label, column, count) / size for column in values.T], axis=1).astype(values.dtype)


def _graph(label: np.ndarray, pixels: np.ndarray, cell: int) -> Superpixels:
    K = int(label.max()) + 1
    centre = _means(pixels, label.ravel(), K).astype(np.float64)
    border = np.zeros(K, dtype=bool)
    for edge in (label[0], label[-1], label[:, 0], label[:, -1]):
        border[edge] = True
    adjacent = np.zeros((K, K), dtype=bool)
    for here, there in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
        adjacent[here, there] = adjacent[there, here] = True
    np.fill_diagonal(adjacent, False)
    place = centre[:, 3:] * cell / max(label.shape)
    return Superpixels(label, centre[:, :3] * _COMPACTNESS, place, border, adjacent)
