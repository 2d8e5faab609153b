"""A batch with a number that is not finite is left out, on all ranks; too many of them end the run."""

import copy
import os
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback

from callbacks import MomentumUpdate, NonFiniteGuard, QueueUpdate
from datamodules.errors import UserError
from methods import BYOL, MoCo, SimCLR
from tests.support.methods import small
from tests.support.poison import Poison, finite, run, stopped
from tests.support.ranks import on_ranks


class Keep(Callback):
    """Copies all that is stateful before a batch, and before the next."""

    def __init__(self, batch: int) -> None:
        self.batch, self.seen = batch, -1

    def on_train_batch_start(self, trainer, pl_module, *_) -> None:
        self.seen += 1
        if self.seen == self.batch:
            self.before = self.state(trainer, pl_module)
        if self.seen == self.batch + 1:
            self.after = self.state(trainer, pl_module)

    def state(self, trainer, pl_module) -> dict[str, torch.Tensor]:
        probe = next(c for c in trainer.callbacks if type(c).__name__ == "OnlineLinearProbe")
        state = {**pl_module.state_dict(), "probe": probe.layer.weight}
        for i, values in enumerate(trainer.optimizers[0].state.values()):
            state |= {f"{i}.{name}": value for name, value in values.items()}
        return copy.deepcopy(state)


@pytest.mark.parametrize("what", ["view", "loss", "gradient"])
@pytest.mark.parametrize("method", [SimCLR, MoCo, BYOL], ids=lambda m: m.__name__)
def test_a_skipped_batch_leaves_nothing(method, what, tmp_path):
    guard, keep = NonFiniteGuard("skip"), Keep(3)
    later = [MomentumUpdate(), QueueUpdate()] if method is MoCo else []  # before the guard in the list
    module = small(method)
    with pytest.warns(UserWarning, match=r"Not finite after 3 steps .* It is skipped\."):
        trainer = run(module, tmp_path, keep, *later, Poison(what, 3), guard)
    assert guard.skipped == 1
    assert trainer.global_step == 10  # it counts in the schedule
    assert keep.before.keys() == keep.after.keys()
    for name, value in keep.before.items():
        if name != "probe":
            assert torch.equal(keep.after[name], value), name
    assert finite(keep.after)
    assert finite(module.state_dict())
    assert finite(trainer.callback_metrics)  # of the validation, which uses BatchNorm's averages


def test_too_many_skipped_batches_in_a_row_stop_the_run(tmp_path):
    with pytest.warns(UserWarning, match="It is skipped"):
        sentence = stopped(small(SimCLR), tmp_path, Poison("loss", 1, 3, 4, 5, 6), NonFiniteGuard("skip", max_skips=3))
    assert "after 5 steps" in sentence
    assert "It is the last of 3 such batches in a row." in sentence
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 3
    with pytest.raises(UserError, match="max_skips=0"):
        NonFiniteGuard(max_skips=0)


def test_a_window_of_accumulated_batches_makes_no_step_if_one_of_them_is_skipped(tmp_path):
    guard, poison, module = NonFiniteGuard("skip"), Poison("view", 2), small(MoCo)
    keep = Keep(3)
    with pytest.warns(UserWarning, match=r"epoch 0, batch 2"):
        run(module, tmp_path, poison, keep, guard, accumulate_grad_batches=2)
    assert guard.skipped == 1
    for name, _ in module.named_parameters():  # of student and teacher, after the window's second batch
        assert torch.equal(keep.before[name], keep.after[name]), name
    assert not torch.equal(keep.before["queue.keys"], keep.after["queue.keys"])  # that batch was good
    assert finite(module.state_dict())


def test_the_guard_goes_first_and_the_last_of_several_counts(tmp_path):
    first, last = NonFiniteGuard(), NonFiniteGuard("skip")
    with pytest.warns(UserWarning, match="It is skipped"):
        trainer = run(small(SimCLR), tmp_path, first, Poison("view", 3), last)
    assert trainer.callbacks[0] is last
    assert first not in trainer.callbacks


def two_ranks(rank: int, folder: str, action: str) -> tuple[str, dict]:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", TORCHELASTIC_RUN_ID="tests")
    module = small(MoCo)
    try:
        run(module, Path(folder), Poison("view", 3, rank=1), NonFiniteGuard(action), ranks=2)
    except UserError as error:
        return str(error), {}
    return "", {name: value.numpy() for name, value in module.state_dict().items()}


@pytest.mark.ddp
def test_ranks_stop_together_and_point_at_the_one_to_blame(tmp_path):
    (told0, _), (told1, _) = on_ranks(2, two_ranks, str(tmp_path), "stop")
    assert "Not finite after 3 steps (epoch 0, batch 3): first what rank 1 tells of." in told0
    assert "first view 2, of image" in told1
    assert len(list((tmp_path / "checkpoints").glob("not_finite-epoch=0-batch=3-rank=*.pt"))) == 2


@pytest.mark.ddp
def test_ranks_skip_together(tmp_path):
    (told0, state0), (told1, state1) = on_ranks(2, two_ranks, str(tmp_path), "skip")
    assert told0 == told1 == ""
    for name, value in state0.items():
        if "running" not in name and "batches" not in name:  # BatchNorm's averages are each rank's own
            assert (value == state1[name]).all(), name
