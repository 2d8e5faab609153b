"""The queue's content against a list kept by hand."""

from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks import QueueUpdate
from datamodules.views import Views
from methods import AdCo, SimCLR
from methods.modules import FeatureQueue
from tests.support.methods import small, views
from tests.support.replay import Prepared, quiet_trainer
from tests.support.toy_moco import ToyMoCo

B, STEPS = 4, 5


def data(num_images: int | None = None) -> Prepared:
    made = [views(ToyMoCo, B, seed) for seed in range(STEPS)]
    prepared = Prepared(made, made[:1], None)
    if num_images is not None:
        prepared.num_train_images = num_images
    return prepared


class Witness(Callback):
    """Writes down the keys of every step, and the queue that the next step's loss will read."""

    def __init__(self) -> None:
        self.pushed: list[Tensor] = []
        self.seen_by_loss: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.seen_by_loss.append(pl_module.queue.keys.clone())

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.pushed.append(outputs["enqueue"]["queue"].clone())


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("size", [3, 10, 24])  # less than a batch, not a multiple of it, more than all
def test_every_batchs_keys_are_pushed_once_in_order(size, window):
    module = small(ToyMoCo, queue_size=size)
    start = module.queue.keys.clone()
    witness = Witness()
    trainer = quiet_trainer([witness], accumulate_grad_batches=window)
    trainer.fit(module, datamodule=data())
    assert len(witness.pushed) == STEPS  # of every batch, also where several make one step
    ring, place = start.clone(), 0
    for keys, seen in zip(witness.pushed, witness.seen_by_loss, strict=True):
        assert torch.equal(seen, ring)  # a step does not meet its own keys
        for key in keys:
            ring[place % size] = key
            place += 1
    assert torch.equal(module.queue.keys, ring)
    assert module.queue.seen == B * STEPS


@pytest.mark.parametrize(("num_images", "warns"), [(20, True), (24, True), (25, False), (None, False)])
def test_warns_where_the_queue_outlives_an_epoch(num_images, warns, recwarn):
    trainer = quiet_trainer([], max_steps=1)
    trainer.fit(small(ToyMoCo, queue_size=24), datamodule=data(num_images))
    told = [str(w.message) for w in recwarn if "queue holds 24 keys" in str(w.message)]
    assert len(told) == warns


class Nested(nn.Module):
    """Queues one level down, as a method with one queue a level has."""

    def __init__(self) -> None:
        super().__init__()
        self.queues = nn.ModuleDict({"low": FeatureQueue(6, 2), "high": FeatureQueue(6, 2)})


class ManyQueues(LightningModule):
    """Pushes its step number into one queue and the negative of it into the other."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.memory = nn.Parameter(torch.ones(())), Nested()

    def training_step(self, batch: Views, batch_idx: int) -> dict[str, Any]:
        keys = torch.full((1, 2), float(batch_idx))
        return {"loss": self.number**2, "enqueue": {"memory.queues.low": keys, "memory.queues.high": -keys}}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_queues_deeper_in_the_method(recwarn):
    module = ManyQueues()
    prepared = data(num_images=5)
    prepared.val = []
    quiet_trainer([QueueUpdate()], limit_val_batches=0).fit(module, datamodule=prepared)
    assert module.memory.queues["low"].keys[:STEPS, 0].tolist() == [0, 1, 2, 3, 4]
    assert module.memory.queues["high"].keys[:STEPS, 0].tolist() == [0, -1, -2, -3, -4]
    assert sum("holds 6 keys" in str(w.message) for w in recwarn) == 1  # one sentence, however many queues


class MyQueueUpdate(QueueUpdate):
    """Somebody's own."""


def test_the_base_attaches_one_and_keeps_a_users_own():
    def of(module: LightningModule, *callbacks: Callback) -> list[type]:
        trainer = quiet_trainer(list(callbacks), max_steps=1)
        trainer.fit(module, datamodule=data())
        return [type(c) for c in trainer.callbacks if isinstance(c, QueueUpdate)]

    assert of(small(ToyMoCo)) == [QueueUpdate]
    assert of(small(ToyMoCo), QueueUpdate()) == [QueueUpdate]
    assert of(small(ToyMoCo), MyQueueUpdate()) == [MyQueueUpdate]
    assert of(small(SimCLR)) == []


def test_ddp_does_not_overwrite_queues():
    module = small(ToyMoCo)
    quiet_trainer([], max_steps=1).fit(module, datamodule=data())
    assert set(module._ddp_params_and_buffers_to_ignore) == {"queue.keys"}


def test_warns_where_negatives_are_never_filled(recwarn):
    module = small(AdCo, num_negatives=B * STEPS + 1)
    quiet_trainer([]).fit(module, datamodule=data())
    assert any(f"holds {B * STEPS + 1} vectors" in str(w.message) and "lower" in str(w.message) for w in recwarn)


def test_says_nothing_where_negatives_are_filled(recwarn):
    quiet_trainer([]).fit(small(AdCo, num_negatives=B * STEPS - 1), datamodule=data())
    assert not any("vectors" in str(w.message) for w in recwarn)
