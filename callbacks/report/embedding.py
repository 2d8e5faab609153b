"""Maps of features in two dimensions, and which images are each other's neighbours."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 500  # of t-SNE; enough for a thousand points, at half the time of scikit-learn's default


class NoSpreadError(Exception):
    """All features are the same, so there is no map to draw."""


def project(features: Tensor) -> dict[str, np.ndarray]:
    """Places images in the plane so that similar ones are close.

    Args:
        features: [N, D]; compared by direction, as the kNN monitor does. N at least 8.

    Returns:
        "t-SNE" and "PCA" -> [N, 2] positions, scaled to the unit square with their proportions kept. Always the same
        for the same features.

    Raises:
        NoSpreadError: the features are all the same, or not finite.
    """
    from sklearn.decomposition import PCA  # takes a second to import, which no other command should wait for
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    directions = F.normalize(features, dim=1).numpy()
    N, D = directions.shape
    if not np.isfinite(directions).all() or directions.std(0).max() < 1e-6:
        raise NoSpreadError
    with threadpool_limits(
        1
    ):  # t-SNE's threads wait by spinning: on a busy machine more of them take ten times as long
        components = PCA(min(50, N, D), random_state=0).fit_transform(directions)
        tsne = TSNE(2, perplexity=min(30.0, (N - 1) / 3), max_iter=_STEPS, init="pca", random_state=0)
        placed = tsne.fit_transform(components)
    flat = np.pad(components, ((0, 0), (0, 1)))[:, :2]  # a single direction has no second one
    return {"t-SNE": _unit_square(placed), "PCA": _unit_square(flat)}


def neighbours(features: Tensor, k: int) -> Tensor:
    """[N, k] int64: for each image the others nearest to it by cosine, the nearest first.

    Args:
        features: [N, D].
        k: how many; fewer if there are no more.
    """
    directions = F.normalize(features, dim=1)
    similarity = (directions @ directions.T).fill_diagonal_(-2)
    return similarity.topk(min(k, len(features) - 1)).indices


def confused_pairs(nearest: Tensor, label: Tensor) -> list[tuple[int, int, float]]:
    """Which classes lie among each other.

    Args:
        nearest: [N, k] int64 as by `neighbours`.
        label: [N] int64, -1 where unknown.

    Returns:
        (a, b, share) with a < b, the largest share first: of the neighbours of images of either class, those of the
        other. Pairs that never meet are left out.
    """
    C = int(label.max()) + 1
    source, target = label[:, None].expand_as(nearest).flatten(), label[nearest].flatten()
    known = (source >= 0) & (target >= 0)
    counts = torch.bincount(source[known] * C + target[known], minlength=C * C).view(C, C).double()
    crossing, total = counts + counts.T, counts.sum(1)
    pairs = [
        (a, b, float(crossing[a, b] / (total[a] + total[b])))
        for a, b in torch.triu_indices(C, C, 1).T.tolist()
        if crossing[a, b] > 0
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def _unit_square(positions: np.ndarray) -> np.ndarray:
    middle = (positions.max(0) + positions.min(0)) / 2
    return 0.5 + (positions - middle) / max(float(np.ptp(positions, axis=0).max()), 1e-12)
