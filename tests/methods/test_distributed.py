"""`gather`: every rank's rows, and the gradient that every rank's loss sends back to them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.distributed import gather, rank, world_size
from tests.support.ranks import on_ranks

ROWS = 3  # on each rank


def pull(anchors: Tensor, candidates: Tensor) -> Tensor:
    """A loss in which every candidate matters to every anchor, the mean over local anchors."""
    return ((anchors @ candidates.T).sin() * torch.arange(1.0, len(candidates) + 1)).sum(1).mean()


def on_rank(this: int, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    mine = slice(this * ROWS, (this + 1) * ROWS)
    anchors, candidates = (torch.from_numpy(v[mine]).requires_grad_() for v in (x, y))
    gathered = gather(candidates)
    loss = pull(anchors, gathered)
    loss.backward()
    flags = gather(torch.full((1, 2), bool(this)))  # any type, any shape
    return {
        "rows": gathered.detach().numpy(),
        "flags": flags.numpy(),
        "loss": loss.detach().numpy(),
        "anchors": anchors.grad.numpy(),
        "candidates": candidates.grad.numpy(),
        "who": np.array([rank(), world_size()]),
    }


@pytest.mark.ddp
def test_two_ranks_have_the_values_and_gradients_of_one_process():
    x, y = torch.randn(2, 2 * ROWS, 4, dtype=torch.float64).unbind()
    first, second = on_ranks(2, on_rank, x.numpy(), y.numpy())

    x.requires_grad_()
    y.requires_grad_()
    loss = pull(x, y)
    loss.backward()
    for answer in (first, second):
        np.testing.assert_array_equal(answer["rows"], y.detach())
        np.testing.assert_array_equal(answer["flags"], [[False, False], [True, True]])
    assert first["who"].tolist() == [0, 2]
    assert second["who"].tolist() == [1, 2]
    np.testing.assert_allclose((first["loss"] + second["loss"]) / 2, loss.detach(), rtol=1e-12)
    # Each rank holds the gradient of the sum over ranks for its own rows; DDP's mean divides by the number of ranks.
    # A backward that only cuts out the local slice would miss what the other rank's anchors say.
    for name, whole in (("anchors", x.grad), ("candidates", y.grad)):
        pieces = np.concatenate([first[name], second[name]]) / 2
        np.testing.assert_allclose(pieces, whole, rtol=1e-12, err_msg=name)


def test_one_process_gets_its_own_tensor_back():
    x = torch.randn(3, 2)
    assert gather(x) is x
    assert (rank(), world_size()) == (0, 1)
