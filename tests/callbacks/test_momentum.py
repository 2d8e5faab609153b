"""The teacher's movement against an average kept by hand."""

import copy
import math
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from callbacks import MomentumUpdate
from datamodules.errors import UserError
from methods import SimCLR
from methods.optim import OptimConfig
from tests.support.methods import small, views
from tests.support.replay import Prepared, quiet_trainer
from tests.support.toy_moco import ToyMoCo

STEPS = 5
MOMENTUM = 0.9


def data() -> Prepared:
    made = [views(ToyMoCo, 4, seed) for seed in range(STEPS)]
    return Prepared(made, made[:1], None)


class ByHand(Callback):
    """Writes down the student after every optimiser step, the teacher after every batch, and how often it moved."""

    def __init__(self) -> None:
        self.students: list[Tensor] = []
        self.teachers: list[Tensor] = []

    @staticmethod
    def weights(module: nn.Module) -> Tensor:
        return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.start = self.weights(pl_module.backbone)
        self.teachers = [self.weights(pl_module.key_backbone)]

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.step_before = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step > self.step_before:
            self.students.append(self.weights(pl_module.backbone))

    def on_before_zero_grad(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.teachers.append(self.weights(pl_module.key_backbone))  # before the next step: all callbacks have acted

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.teachers.append(self.weights(pl_module.key_backbone))

    def moves(self) -> int:
        return sum(not torch.equal(a, b) for a, b in zip(self.teachers, self.teachers[1:], strict=False))


class Stop(Callback):
    """Ends an endless run."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.after


def toy() -> ToyMoCo:
    """Its student takes a visible step every time, from the first."""
    optim = OptimConfig("sgd", lr=0.2, lr_scaling="none", warmup_epochs=0)
    return small(ToyMoCo, teacher_momentum=MOMENTUM, optim=optim)


def train(*callbacks: Callback, **arguments: Any) -> tuple[Trainer, ByHand, ToyMoCo]:
    module = toy()
    by_hand = ByHand()
    trainer = quiet_trainer([*callbacks, by_hand], **arguments)
    trainer.fit(module, datamodule=data())
    return trainer, by_hand, module


def followed(teacher: Tensor, students: list[Tensor], first: int, total: int) -> Tensor:
    """The average in float64; step i of `total` takes the schedule at i / total, the very first at 0."""
    teacher = teacher.double()
    for i, student in enumerate(students, start=first):
        m = 1 - (1 - MOMENTUM) * (math.cos(math.pi * i / total) + 1) / 2
        teacher = m * teacher + (1 - m) * student.double()
    return teacher.float()


@pytest.mark.parametrize(("window", "updates"), [(1, 5), (2, 3), (5, 1)])
def test_moves_once_per_optimiser_step_as_the_schedule_says(window, updates):
    trainer, by_hand, module = train(accumulate_grad_batches=window)
    assert trainer.global_step == len(by_hand.students) == by_hand.moves() == updates
    expected = followed(by_hand.start, by_hand.students, 0, updates)
    torch.testing.assert_close(ByHand.weights(module.key_backbone), expected, rtol=1e-6, atol=1e-7)


def test_goes_on_in_its_schedule_after_a_resume(tmp_path):
    first, by_hand, module = train()
    stopped_at = ByHand.weights(module.key_backbone)
    first.save_checkpoint(tmp_path / "half.ckpt")
    module, by_hand = toy(), ByHand()
    trainer = quiet_trainer([by_hand], max_epochs=2)
    trainer.fit(module, datamodule=data(), ckpt_path=str(tmp_path / "half.ckpt"))
    assert torch.equal(by_hand.teachers[0], stopped_at)
    assert len(by_hand.students) == by_hand.moves() == STEPS
    expected = followed(stopped_at, by_hand.students, STEPS, 2 * STEPS)
    torch.testing.assert_close(ByHand.weights(module.key_backbone), expected, rtol=1e-6, atol=1e-7)


def test_a_run_without_an_end_keeps_its_first_momentum():
    _, by_hand, module = train(Stop(after=4), max_epochs=-1)
    expected = by_hand.start.double()
    for student in by_hand.students:
        expected = MOMENTUM * expected + (1 - MOMENTUM) * student.double()
    assert len(by_hand.students) == 4
    torch.testing.assert_close(ByHand.weights(module.key_backbone), expected.float(), rtol=1e-6, atol=1e-7)


def test_all_pairs_move_and_their_norms_statistics_are_left_alone():
    before = toy()
    _, _, module = train()
    for pair, old in zip(module.ema_pairs(), before.ema_pairs(), strict=True):
        for moved, start in zip(pair.teacher.parameters(), old.teacher.parameters(), strict=True):
            assert not torch.equal(moved, start)
    assert int(module.key_backbone.layers[1].num_batches_tracked) == STEPS  # its own forward passes


class Hasty(MomentumUpdate):
    """Somebody's own: moves the teacher all the way."""

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        for pair in pl_module.ema_pairs():
            for teacher, student in zip(*pair.parameters(), strict=True):
                teacher.copy_(student)


def test_the_base_attaches_one_and_keeps_a_users_own():
    def of(trainer: Trainer) -> list[type]:
        return [type(c) for c in trainer.callbacks if isinstance(c, MomentumUpdate)]

    assert of(train(max_steps=1)[0]) == [MomentumUpdate]
    assert of(train(MomentumUpdate(), max_steps=1)[0]) == [MomentumUpdate]
    trainer, by_hand, module = train(Hasty())
    assert of(trainer) == [Hasty]
    assert torch.equal(ByHand.weights(module.key_backbone), by_hand.students[-1])

    trainer = quiet_trainer([], max_steps=1)
    trainer.fit(small(SimCLR), datamodule=data())
    assert of(trainer) == []  # no teacher, no update


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_refuses_a_precision_in_which_an_average_stands_still(precision):
    with pytest.raises(UserError, match=f"{precision}.*bf16-mixed"):
        train(precision=precision)


def test_mixed_precision_moves_a_teacher_in_fp32():
    _, by_hand, module = train(precision="bf16-mixed")
    assert {p.dtype for p in module.key_backbone.parameters()} == {torch.float32}
    assert by_hand.moves() == STEPS


def test_a_loss_cannot_reach_the_teacher():
    module = small(ToyMoCo)
    trainable = {id(p) for group in module.param_groups() for p in group["params"]}
    assert not trainable & {id(p) for pair in module.ema_pairs() for p in pair.teacher.parameters()}
    copied = copy.deepcopy(module)
    copied.step(views(ToyMoCo, 4)).loss.backward()
    assert all(p.grad is None for pair in copied.ema_pairs() for p in pair.teacher.parameters())
