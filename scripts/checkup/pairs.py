"""Groups of images that are all but the same, found block by block: never is the matrix of all pairs in memory."""

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

BLOCK = 2048  # rows of a block: 16 MiB of cosines


def groups_of(features: Tensor, threshold: float, block: int = BLOCK) -> np.ndarray:
    """Connected components of the pairs whose cosine reaches a threshold.

    Args:
        features: [N, D] of unit norm; rows of zeros are like nothing.
        threshold: least cosine of a pair.
        block: rows that are compared with as many others at once; memory grows with its square.

    Returns:
        [N] int64: for each row the first row of its group, itself where it has no like.
    """
    N = len(features)
    parent = np.arange(N)
    for top in range(0, N, block):
        rows = features[top : top + block]
        for left in range(top, N, block):
            near = (rows @ features[left : left + block].T) >= threshold
            near = near.triu(1) if left == top else near
            a, b = near.nonzero().cpu().numpy().T
            _join(parent, a + top, b + left)
    return _first(parent, np.arange(N))


def cosines(features: Tensor, other: np.ndarray) -> Tensor:
    """[N] cosine of each row of `features` [N, D], of unit norm, with the row that `other` [N] names."""
    other_row = torch.from_numpy(other).to(features.device)
    parts = [
        (features[start : start + BLOCK] * features[other_row[start : start + BLOCK]]).sum(1)
        for start in range(0, len(features), BLOCK)
    ]
    return torch.cat(parts).cpu()


def _first(parent: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The first row of each row's group as far as they are joined."""
    while True:
        above = parent[rows]
        if np.array_equal(above, rows):
            return rows
        rows = above


def _join(parent: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Joins the groups of rows a [P] with those of rows b [P], in place; what it costs depends on P, not on N."""
    if not len(a):
        return
    firsts, place = np.unique(_first(parent, np.concatenate([a, b])), return_inverse=True)  # ascending
    ends = place.reshape(2, -1)
    shape = (len(firsts), len(firsts))
    _, component = connected_components(coo_array((np.ones(len(a), dtype=bool), tuple(ends)), shape=shape), False)
    _, foremost = np.unique(component, return_index=True)  # of ascending rows, the smallest of each component
    parent[firsts] = firsts[foremost[component]]
