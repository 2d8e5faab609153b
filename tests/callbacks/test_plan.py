"""A resumed run keeps to the plan it was made with, or takes another on request."""

import math
import os
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks.plan import NO_LIMIT, Plan, RunPlan
from datamodules.errors import UserError
from methods.optim import OptimConfig
from tests.support.methods import IMAGE_SIZE, small, specs_without_masks
from tests.support.ranks import on_ranks
from tests.support.replay import Prepared, Replay, batches, quiet_trainer
from tests.support.toy_moco import ToyMoCo
from tests.support.training import BATCH, STEPS, Losses, TinyImages, arrays, assert_same

CONFIG = OptimConfig(
    "adamw", lr=0.01, weight_decay=0.01, final_weight_decay=0.1, warmup_epochs=1, lr_scaling="none", final_lr_ratio=0.01
)


class Rates(Losses):
    """Losses, and the rate and decay of every step."""

    def on_train_batch_start(self, trainer, *_):
        group = trainer.optimizers[0].param_groups[0]
        self.draws.append((group["lr"], group["weight_decay"]))

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.values.append(float(outputs["loss"]))


def fit(folder, epochs, extend=False, resume=None, batch_size=BATCH, plan=None, **arguments):
    """Path of the final checkpoint, what was recorded, and the final state."""
    rates = Rates()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[rates, plan or RunPlan(extend)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        limit_val_batches=0,
        **arguments,
    )
    data = TinyImages(specs_without_masks(ToyMoCo), IMAGE_SIZE, batch_size=batch_size)
    trainer.fit(small(ToyMoCo, optim=CONFIG), datamodule=data, ckpt_path=resume)
    path = folder / f"{epochs}.ckpt"
    trainer.save_checkpoint(path)
    return path, rates, arrays(trainer._checkpoint_connector.dump_checkpoint(), str(folder))


class Saves(RunPlan):
    """Writes a checkpoint after a step."""

    def __init__(self, path, step):
        super().__init__()
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def stopped(folder, step):
    """A checkpoint of a run of two epochs after some step, and what the run recorded."""
    _, rates, _ = fit(folder, 2, plan=Saves(folder / "stopped.ckpt", step))
    return folder / "stopped.ckpt", rates


PLAN = Plan(epochs=100, max_steps=NO_LIMIT, steps_per_epoch=20, batch=256)


def test_steps_and_words_of_a_plan():
    assert PLAN.steps == 2000
    assert str(PLAN) == "100 epochs, 2,000 steps"
    short = replace(PLAN, max_steps=150)
    assert short.steps == 150
    assert short.flags == "--trainer.max_epochs 100 --trainer.max_steps 150"
    endless = replace(PLAN, epochs=NO_LIMIT)
    assert math.isinf(endless.steps)
    assert str(endless) == "no set number of steps"
    assert endless.flags == "--trainer.max_epochs -1"
    assert str(replace(PLAN, epochs=NO_LIMIT, max_steps=10)) == "10 steps"


def test_another_length_is_refused_with_both_and_a_way_on(tmp_path):
    checkpoint, _, _ = fit(tmp_path, 2)
    with pytest.raises(UserError, match="planned for 2 epochs, 10 steps, and these flags make it 4 epochs, 20 steps"):
        fit(tmp_path, 4, resume=checkpoint)
    fit(tmp_path, 2, resume=checkpoint)


@pytest.mark.parametrize("stopped_after", [2 * STEPS, 2 * STEPS - 2], ids=["finished", "amid an epoch"])
def test_extended_it_follows_the_longer_schedule_from_its_next_step_on(tmp_path, stopped_after, caplog):
    _, longer, _ = fit(tmp_path / "longer", 4)
    checkpoint, shorter = stopped(tmp_path, stopped_after)
    extended, rates, _ = fit(tmp_path, 4, extend=True, resume=checkpoint)
    assert rates.draws == longer.draws[stopped_after:]
    assert rates.draws[0] != shorter.draws[-1]
    assert "Extended from 2 epochs, 10 steps to 4 epochs, 20 steps: " in caplog.text
    assert f"now at step {stopped_after}, {stopped_after / 20:.0%} of the way; " in caplog.text
    fit(tmp_path, 4, resume=extended)  # its checkpoints hold the new plan


def test_extend_changes_nothing_where_the_plan_is_the_same(tmp_path):
    half, _ = stopped(tmp_path, STEPS + 1)
    _, _, plain = fit(tmp_path, 2, resume=half)
    _, _, extended = fit(tmp_path, 2, resume=half, extend=True)
    assert_same(extended, plain)


@pytest.mark.parametrize("extend", [False, True])
@pytest.mark.parametrize(
    "changed", [{"batch_size": 4}, {"limit_train_batches": 3}, {"accumulate_grad_batches": 2}], ids=str
)
def test_another_epoch_is_refused(tmp_path, changed, extend):
    checkpoint, _, _ = fit(tmp_path, 2)
    with pytest.raises(UserError, match="epochs of 5 steps of 8 images, and these flags give"):
        fit(tmp_path, 4, extend=extend, resume=checkpoint, **changed)


def test_a_checkpoint_without_a_plan_is_taken_as_it_is(tmp_path):
    checkpoint, _, _ = fit(tmp_path, 2, plan=Callback())
    fit(tmp_path, 4, resume=checkpoint)


def test_other_batches_of_the_same_step_are_refused(tmp_path):
    checkpoint, _ = stopped(tmp_path, 3)  # its place in the epoch is counted in batches
    with pytest.raises(UserError, match="5 steps of 8 images, and these flags give 5 steps of 8 images, 4 at a time:"):
        fit(tmp_path, 2, resume=checkpoint, batch_size=BATCH // 2, accumulate_grad_batches=2)


def test_an_older_checkpoint_that_does_not_know_its_batches_is_taken(tmp_path):
    path, _ = stopped(tmp_path, 3)
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint["plan"]["global_batch_size"]
    torch.save(checkpoint, path)
    fit(tmp_path, 2, resume=path)


def watched(window, *callbacks, batches_per_epoch=10, **arguments):
    """A run of two epochs of prepared batches, with validations."""
    train = batches(torch.zeros(2 * batches_per_epoch, 3), torch.zeros(2 * batches_per_epoch, dtype=torch.long), 2)
    settings = {"max_epochs": 2, "accumulate_grad_batches": window, "enable_checkpointing": bool(callbacks)}
    trainer = quiet_trainer([RunPlan(), *callbacks], **settings | arguments)
    trainer.fit(Replay(3), datamodule=Prepared(train, train[:1], 1))


@pytest.mark.parametrize(
    ("window", "arguments"),
    [
        (4, {"val_check_interval": 5}),
        (4, {"val_check_interval": 0.2}),
        (4, {"val_check_interval": 8, "check_val_every_n_epoch": None}),  # after batch 16, the sixth of an epoch
        (2, {"val_check_interval": "00:01:00:00"}),
    ],
    ids=str,
)
def test_validations_amid_accumulated_batches_are_refused(window, arguments):
    with pytest.raises(UserError, match=f"amid the batches of a step with --trainer.accumulate_grad_batches {window},"):
        watched(window, **arguments)


@pytest.mark.parametrize(
    ("window", "arguments"),
    [
        (4, {}),  # an epoch ends with a step
        (4, {"val_check_interval": 4}),
        (4, {"val_check_interval": 5, "limit_val_batches": 0}),
        (2, {"val_check_interval": 4, "check_val_every_n_epoch": None}),
        (4, {"val_check_interval": 20, "check_val_every_n_epoch": None}),
        (1, {"val_check_interval": 5}),
        (4, {"fast_dev_run": 2}),
    ],
    ids=str,
)
def test_validations_after_a_step_are_not(window, arguments):
    watched(window, **arguments)


def test_checkpoints_by_the_clock_are_refused_with_accumulated_batches(tmp_path):
    saver = ModelCheckpoint(tmp_path, train_time_interval=timedelta(hours=1))
    watched(1, saver)
    with pytest.raises(UserError, match="train_time_interval saves amid the batches of a step .* every_n_train_steps"):
        watched(2, saver)


class Ahead(Callback):
    """Stands in for a rank that alone found a checkpoint."""

    def on_fit_start(self, trainer, *_):
        trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 3


def begin_apart(rank):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", TORCHELASTIC_RUN_ID="tests")
    try:
        watched(1, *[Ahead()] * rank, strategy="ddp", devices=2, enable_checkpointing=False)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.ddp
def test_ranks_that_begin_at_different_places_all_say_so():
    first, second = on_ranks(2, begin_apart)
    assert first == second
    assert "at step 0 (epoch 0, batch 0) rank 0; at step 3 (epoch 0, batch 0) rank 1." in first
    assert "--trainer.default_root_dir must be a folder that all machines see alike" in first
