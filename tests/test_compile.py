"""`--model.compile true` finds one graph in each network of every method: nothing of ours breaks it."""

import pytest
import torch

from tests.support.methods import all_methods, small, views


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it
@pytest.mark.parametrize("method", all_methods(), ids=lambda m: m.__name__)
def test_networks_are_whole_graphs(method):
    module, batch = small(method), views(method)
    expected = float(module.step(batch).loss.detach())
    torch._dynamo.reset()
    module = small(method)
    for network in module.networks():
        network.compile(backend="eager", fullgraph=True)  # raises where a graph breaks
    assert float(module.step(batch).loss.detach()) == pytest.approx(expected, rel=1e-5)
