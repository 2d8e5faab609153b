"""Nearest neighbours by cosine, in a bank that is spread over the ranks, and their vote."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


class Bank:
    """Labelled features to find neighbours in, of which every rank holds a part.

    Queries travel to all ranks, each finds the nearest in its own part, and the lists are merged: no rank ever holds
    the whole bank, and memory is bounded by queries x part.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, all_gather: Callable[[Tensor], Tensor], world_size: int
    ) -> None:
        """
        Args:
            features: [N, D] this rank's features, of any norm.
            labels: [N] their classes; rows with -1 are left out.
            all_gather: [...] of every rank to [W, ...].
            world_size: W.
        """
        known = labels >= 0
        self.features = F.normalize(features[known].float(), dim=1)
        self.labels = labels[known]
        self._all_gather, self._world_size = all_gather, world_size

    def nearest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest of the whole bank by cosine.

        Args:
            queries: [Q, D] of this rank, the same Q on every rank.
            k: neighbours; fewer come back if the bank is smaller.

        Returns:
            Similarities [Q, k] in falling order, and labels [Q, k].
        """
        queries = F.normalize(queries.float(), dim=1)
        if self._world_size == 1:
            similarity, place = (queries @ self.features.T).topk(min(k, len(self.features)))
            return similarity, self.labels[place]
        W, Q = self._world_size, len(queries)
        rank_queries = self._all_gather(queries).reshape(W * Q, -1)
        similarity = torch.full((W * Q, k), -torch.inf, device=queries.device)
        labels = torch.zeros((W * Q, k), dtype=torch.int64, device=queries.device)
        own, place = (rank_queries @ self.features.T).topk(min(k, len(self.features)))
        similarity[:, : own.shape[1]], labels[:, : own.shape[1]] = own, self.labels[place]
        own_rows = slice(torch.distributed.get_rank() * Q, (torch.distributed.get_rank() + 1) * Q)
        similarity = (
            self._all_gather(similarity)[:, own_rows].movedim(0, 1).reshape(Q, W * k)
        )  # every rank's list for my queries
        labels = self._all_gather(labels)[:, own_rows].movedim(0, 1).reshape(Q, W * k)
        similarity, order = similarity.topk(k)
        return similarity, labels.gather(1, order)


def votes(similarity: Tensor, labels: Tensor, k: int, temperature: float, num_classes: int) -> Tensor:
    """What the first k neighbours say, weighted by their similarity.

    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, arXiv:1805.01978,
    section 3.4: neighbour i weighs exp(s_i / temperature).

    Args:
        similarity: [Q, K] cosines in falling order, K >= k (or the size of the bank).
        labels: [Q, K] classes of the neighbours.
        k: neighbours that vote.
        temperature: > 0.
        num_classes: C.

    Returns:
        [Q, C] weight of each class, in units of the nearest neighbour's; 0 where no neighbour is of the class.
    """
    similarity, labels = similarity[:, :k], labels[:, :k]
    weight = ((similarity - similarity[:, :1]) / temperature).exp()  # relative to the nearest: nothing overflows
    return weight.new_zeros(len(weight), num_classes).scatter_add_(1, labels, weight)


def vote(similarity: Tensor, labels: Tensor, k: int, temperature: float, num_classes: int) -> Tensor:
    """[Q] int64, the class with the most weight in `votes`."""
    return votes(similarity, labels, k, temperature, num_classes).argmax(1)
