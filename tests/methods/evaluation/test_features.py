"""Each image once, by a network at rest."""

import pytest
import torch
from torch import nn

from methods.evaluation.features import at_rest, extract
from tests.datamodules.toys import Toy
from tests.support.frozen import TRAIN, Patterns

CPU = torch.device("cpu")


class Mean(nn.Module):
    """[B, C] mean intensities; remembers whether it was training."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm1d(3).eval()
        self.layer = nn.Linear(1, 1)
        self.saw_training: list[bool] = []

    def forward(self, images):
        self.saw_training.append(self.training or self.layer.training)
        return self.layer(images.mean((1, 2, 3))[:, None])


def test_each_readable_image_comes_once_in_order():
    data = Toy(bad={3, 39}, bad_val={0}, eval_batch_size=7)
    for split, missing, count in (("train", {3, 39}, 40), ("val", {0}, 20)):
        found = extract(lambda x: x.mean((2, 3)), data, split, CPU)
        rows = [i for i in range(count) if i not in missing]
        assert found.index.tolist() == rows
        assert found.label.tolist() == [i % 3 for i in rows]
        source = data.sources()[split == "val"]
        want = torch.stack([(source.image(i) / 255 - 0.5).div(0.25).mean((1, 2)) for i in rows])
        assert torch.allclose(found.h, want, atol=1e-5) and found.h.dtype == torch.float32


def test_raw_images_and_subsets():
    found = extract(lambda x: x.flatten(1), Toy(), "train", CPU, max_images=10, raw=True)
    assert found.h.shape == (10, 3 * 16 * 16) and found.h.min() >= 0 and found.h.max() <= 1
    assert len(set(found.index.tolist())) == 10 and found.index.tolist() == sorted(found.index.tolist())


def test_the_network_rests_meanwhile_and_is_as_before_afterwards():
    network = Mean().train()
    network.frozen.eval()
    found = extract(network, Toy(), "val", CPU)
    assert not any(network.saw_training) and not found.h.requires_grad
    assert network.training and network.layer.training and not network.frozen.training


def test_it_wakes_up_after_a_failure():
    network = Mean().train()
    with pytest.raises(KeyError), at_rest(network):
        assert not network.layer.training
        raise KeyError
    assert network.layer.training


def test_unlabelled_images_are_kept():
    found = extract(lambda x: x.mean((2, 3)), Patterns(unknown=5), "train", CPU)
    assert len(found.h) == TRAIN and (found.label == -1).sum() == 5
