"""The ring of features against Python's own."""

from collections import deque

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from methods.modules import FeatureQueue


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_holds_what_a_deque_holds_after_any_pushes(size):
    generator = torch.Generator().manual_seed(size)
    queue = FeatureQueue(size, 2)
    reference = deque((row.tolist() for row in queue.keys), maxlen=size)
    pushed = 0
    for batch in torch.randint(0, 2 * size + 2, (40,), generator=generator).tolist():  # also none, also more than K
        keys = torch.arange(pushed, pushed + batch, dtype=torch.float32)[:, None].repeat(1, 2)
        queue.push(keys)
        reference.extend(keys.tolist())
        pushed += batch
        from_oldest = queue.keys.roll(-queue.pointer, dims=0)
        assert from_oldest.tolist() == list(reference)
        assert queue.seen == pushed
        assert queue.pointer == pushed % size
        assert queue.full == (pushed >= size)


class NoSlotTwice(TorchDispatchMode):
    """Fails where one slot is written twice at once: on an accelerator, whichever write came last would stay."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.index_copy_.default:
            assert args[2].unique().numel() == args[2].numel(), "a slot is written twice"
        return func(*args, **(kwargs or {}))


def test_more_keys_than_slots_do_not_race():
    queue = FeatureQueue(3, 2)
    with NoSlotTwice():
        queue.push(torch.randn(8, 2))
    with pytest.raises(AssertionError, match="twice"), NoSlotTwice():
        queue.keys.index_copy_(0, torch.tensor([1, 1]), torch.randn(2, 2))


def test_starts_with_random_directions():
    queue = FeatureQueue(64, 8)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(64))
    assert queue.keys.unique(dim=0).shape == (64, 8)
    assert (queue.pointer, queue.seen) == (0, 0)


def test_everything_is_in_the_checkpoint_and_nothing_is_trained():
    queue = FeatureQueue(4, 2)
    queue.push(F.normalize(torch.randn(3, 2), dim=1))
    fresh = FeatureQueue(4, 2)
    fresh.load_state_dict(queue.state_dict(), strict=True)
    assert set(queue.state_dict()) == {"keys", "_extra_state"}
    assert torch.equal(fresh.keys, queue.keys)
    assert (fresh.pointer, fresh.seen, fresh.full) == (3, 3, False)
    assert not list(queue.parameters())


def test_keys_of_another_precision_and_with_gradient():
    queue = FeatureQueue(4, 2)
    queue.push(torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True))
    assert queue.keys.dtype == torch.float32
    assert not queue.keys.requires_grad
    assert queue.keys[:2].tolist() == [[1, 1], [1, 1]]
