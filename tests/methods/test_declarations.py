"""Methods of somebody's own that forget one of their parameters, teachers or queues."""

import dataclasses
from typing import Any

import pytest
from torch import Tensor, nn

from datamodules.errors import UserError
from methods import AdCo, FastMoCo, SimSiam
from methods.base import SSLModule, StepOutput
from methods.contrastive import ContrastiveModule
from methods.modules import EMAPair, FeatureQueue, Teacher
from tests.support.methods import small, views
from tests.support.replay import Prepared, quiet_trainer
from tests.support.toy_moco import ToyMoCo


def fit(module: SSLModule, steps: int = 1) -> None:
    batches = [views(type(module), 4, seed) for seed in range(steps)]
    quiet_trainer([], max_steps=steps, limit_val_batches=0).fit(module, datamodule=Prepared(batches, [], None))


def with_a_layer(method: type[ContrastiveModule]) -> type[ContrastiveModule]:
    """A subclass that says nothing of its new layer but how it enters the loss."""

    class Mine(method):  # pyright: ignore[reportGeneralTypeIssues]
        def __init__(self, **base: Any) -> None:
            super().__init__(**base)
            self.extra = nn.Linear(self.feature_dim, 2)

        def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
            output = method.contrast(self, embeddings)
            return dataclasses.replace(output, loss=output.loss + self.extra(output.features).square().mean())

    return Mine


@pytest.mark.parametrize("method", [SimSiam, FastMoCo, AdCo], ids=lambda method: method.__name__)
def test_a_new_layer_of_a_subclass_is_trained(method):
    module = small(with_a_layer(method), **({"num_negatives": 8} if method is AdCo else {}))
    before = module.get_parameter("extra.weight").detach().clone()
    fit(module, steps=3)
    assert (module.get_parameter("extra.weight") - before).abs().max() > 1e-5


class Forgets(SimSiam):
    """Lists its parameters by network, and not all of them."""

    def param_groups(self) -> list[dict[str, Any]]:
        return self.optim.groups(self.backbone, self.projector)


class Doubles(SimSiam):
    """Lists the predictor twice."""

    def param_groups(self) -> list[dict[str, Any]]:
        return [*self.optim.groups(self), {"params": self.predictor.parameters()}]


class Iterates(SimSiam):
    """Torch takes iterators, too."""

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": self.parameters()}]


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (Forgets, r"Forgets would never train predictor.0.weight, .* and \d more: param_groups\(\) .*requires_grad_"),
        (Doubles, r"Doubles would train predictor.0.weight, .* several times"),
    ],
)
def test_every_parameter_is_in_one_group(method, sentence):
    with pytest.raises(UserError, match=sentence):
        fit(small(method))


def test_groups_may_hold_iterators():
    module = small(Iterates)
    before = module.get_parameter("predictor.0.weight").detach().clone()
    fit(module, steps=2)
    assert not before.equal(module.get_parameter("predictor.0.weight"))


class NoPairs(ToyMoCo):
    """Has a teacher that nothing moves."""

    def ema_pairs(self) -> list[EMAPair]:
        return []


class OneOfTwo(ToyMoCo):
    """Moves a half of it."""

    def ema_pairs(self) -> list[EMAPair]:
        return super().ema_pairs()[:1]


class Second(ToyMoCo):
    """Has another teacher than its parent."""

    def __init__(self, **base: Any) -> None:
        super().__init__(**base)
        self.target = Teacher(self.backbone, self.projector)


class Resting(Second):
    """Has one on purpose that stays as it is."""

    def ema_pairs(self) -> list[EMAPair]:
        return [*super().ema_pairs(), EMAPair((self.backbone, self.projector), self.target, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("method", "name"), [(NoPairs, "key_backbone"), (OneOfTwo, "key_projector"), (Second, "target.backbone")]
)
def test_every_teacher_moves(method, name):
    with pytest.raises(UserError, match=rf"{method.__name__}.{name} is a teacher that would never move: ema_pairs\(\)"):
        fit(small(method))


def test_a_teacher_may_be_told_to_stay():
    fit(small(Resting))


class Enqueues(ToyMoCo):
    """Enqueues by these names, or nothing."""

    def __init__(self, names: tuple[str, ...] = (), rows: int | None = None, **base: Any) -> None:
        super().__init__(**base)
        self.memory = FeatureQueue(6, 8)
        self.names, self.rows = names, rows

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        enqueue = {name: embeddings["k"][: self.rows] for name in self.names}
        return dataclasses.replace(super().contrast(embeddings), enqueue=enqueue)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((), r"Enqueues puts nothing into queue, memory: StepOutput.enqueue .*keys\[:0\]"),
        (("queue",), "Enqueues puts nothing into memory"),
        (("queue", "memry"), "Enqueues enqueues for memry, but its queues are queue, memory"),
    ],
)
def test_a_step_names_every_queue_and_no_other(names, sentence):
    with pytest.raises(UserError, match=sentence):
        fit(small(Enqueues, names=names))


@pytest.mark.parametrize(("rows", "seen"), [(None, 8), (0, 0)])
def test_a_queue_need_not_be_filled(rows, seen):
    module = small(Enqueues, names=("queue", "memory"), rows=rows)
    assert isinstance(module, Enqueues)
    fit(module, steps=2)
    assert module.memory.seen == module.queue.seen == seen
