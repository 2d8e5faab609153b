"""The center of a teacher's outputs."""

import copy

import torch

from methods.modules.center import Center


def test_moves_by_the_mean_of_a_step_when_the_next_one_begins():
    center = Center(3, 0.9)
    a, b, c = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 3)
    assert not center.at(0).any()
    center.push(a)
    assert not center.at(0).any()  # a second batch of the same optimiser step
    center.push(b)
    expected = 0.1 * torch.cat([a, b]).mean(0)
    torch.testing.assert_close(center.at(1), expected)
    torch.testing.assert_close(center.at(1), expected)  # once
    center.push(c)
    torch.testing.assert_close(center.at(2), 0.9 * expected + 0.1 * c.mean(0))
    torch.testing.assert_close(center.at(3), 0.9 * expected + 0.1 * c.mean(0))  # nothing was pushed since


def test_comes_near_a_constant_output_by_a_tenth_a_step():
    center, output = Center(4, 0.9), torch.randn(4)
    for step in range(1, 21):
        center.push(output[None])
        torch.testing.assert_close(center.at(step), output * (1 - 0.9**step))


def test_goes_on_from_a_checkpoint_in_the_middle_of_a_step():
    center = Center(3, 0.9)
    center.push(torch.randn(1, 3))
    center.at(1)
    center.push(torch.randn(1, 3))
    again, more = Center(3, 0.9), torch.randn(1, 3)
    again.load_state_dict(copy.deepcopy(center.state_dict()))
    for each in (center, again):
        each.push(more)
    assert torch.equal(again.at(1), center.at(1))
    assert torch.equal(again.at(2), center.at(2))
    assert again.at(2).any()
