"""Trainable negatives: filled once and in order, through a checkpoint too; the keys' share of a softmax."""

import pytest
import torch
import torch.nn.functional as F

from methods.modules.negatives import TrainableNegatives, key_probability


@pytest.mark.parametrize("batch", [1, 3, 7, 8, 20])
def test_fills_in_order_and_leaves_out_what_has_no_room(batch):
    negatives = TrainableNegatives(7, 2)
    random, pushed = negatives.weight.detach().clone(), torch.arange(40.0)[:, None].repeat(1, 2)
    for step in range(3):
        negatives.push(pushed[step * batch : (step + 1) * batch])
        filled = min(7, (step + 1) * batch)
        assert negatives.filled == filled
        assert negatives.full is (filled == 7)
        assert torch.equal(negatives.weight[:filled], pushed[:filled])
        assert torch.equal(negatives.weight[filled:], random[filled:])


def test_keys_of_lower_precision_keep_the_negatives_type():
    negatives = TrainableNegatives(3, 2)
    negatives.push(torch.tensor([[0.5, 0.25]], dtype=torch.bfloat16))
    assert negatives.weight.dtype == torch.float32
    assert negatives.weight[0].tolist() == [0.5, 0.25]


def test_how_far_it_is_filled_is_part_of_its_state(tmp_path):
    negatives, other = TrainableNegatives(5, 2), TrainableNegatives(5, 2)
    negatives.push(torch.ones(3, 2))
    torch.save(negatives.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for keys in (torch.zeros(1, 2), torch.full((4, 2), 2.0)):
        negatives.push(keys)
        other.push(keys)
        assert other.filled == negatives.filled
        assert torch.equal(other.weight, negatives.weight)
    assert other.full


def test_gives_directions_and_keeps_lengths():
    negatives = TrainableNegatives(4, 3)
    with torch.no_grad():
        negatives.weight.mul_(5)
    before = negatives.weight.detach().clone()
    torch.testing.assert_close(negatives(), before / before.square().sum(1, keepdim=True).sqrt())
    assert torch.equal(negatives.weight, before)


def test_the_keys_share_of_the_softmax():
    query, key, negatives = (F.normalize(torch.randn(n, 4, dtype=torch.float64), dim=1) for n in (3, 3, 5))
    naive = 0.0
    for q in query:
        real, false = ([float((q @ c / 0.3).exp()) for c in candidates] for candidates in (key, negatives))
        naive += sum(real) / (sum(real) + sum(false)) / 3
    assert float(key_probability(query, key, negatives, 0.3)) == pytest.approx(naive, rel=1e-12)
    assert not key_probability(query.requires_grad_(), key, negatives, 0.3).requires_grad
