"""`--model.compile true` finds one graph in each network of every method: nothing of ours breaks it."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.support.methods import all_methods, small, views

NOT_CALLED = {("JigClu", "backbone"), ("MAE", "backbone")}  # in training; a part of each is


def counting(graphs: Counter[str], name: str) -> Callable:
    """A backend that runs a graph as it is and counts it."""

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs[name] += 1
        return graph.forward

    return backend


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it
@pytest.mark.parametrize("method", all_methods(), ids=lambda m: m.__name__)
def test_networks_are_whole_graphs(method):
    module, batch = small(method), views(method)
    expected = float(module.step(batch).loss.detach())
    torch._dynamo.reset()
    module, graphs = small(method), Counter()
    names = {network: name for name, network in module.named_modules()}
    for network in module.networks():
        network.compile(backend=counting(graphs, names[network]), fullgraph=True)  # raises where a graph breaks
    assert float(module.step(batch).loss.detach()) == pytest.approx(expected, rel=1e-5)
    # Dynamo says nothing of a network that it leaves alone; of one layer there is nothing to gain.
    larger = {names[network] for network in module.networks() if not isinstance(network, nn.Linear)}
    left_alone = {
        name for name in larger if not graphs[name] and next(module.get_submodule(name).parameters(), None) is not None
    }
    assert left_alone == {name for cls, name in NOT_CALLED if cls == method.__name__}
