"""A resumed run keeps to the plan it was made with, or takes another on request."""

import math
from dataclasses import replace

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from callbacks.plan import NO_LIMIT, Plan, RunPlan
from datamodules.errors import UserError
from datamodules.sources import ArraySource
from methods.optim import OptimConfig
from tests.support.methods import IMAGE_SIZE, images, small, specs_without_masks
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


def fit(folder, epochs, extend=False, resume=None, batch_size=BATCH, plan=None, data=TinyImages, **arguments):
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
    made = data(specs_without_masks(ToyMoCo), IMAGE_SIZE, batch_size=batch_size)
    trainer.fit(small(ToyMoCo, optim=CONFIG), datamodule=made, ckpt_path=resume)
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


def test_an_older_checkpoint_that_does_not_know_its_batches_is_taken(tmp_path, monkeypatch):
    path, _ = stopped(tmp_path, 3)
    checkpoint = torch.load(path, weights_only=False)
    for name in ("global_batch_size", "num_train_images", "seed"):
        del checkpoint["plan"][name]
    torch.save(checkpoint, path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    fit(tmp_path, 2, resume=path)


class MoreImages(TinyImages):
    """One image more than an epoch has room for in whole batches."""

    def sources(self):
        train, val = super().sources()
        more = ArraySource(images(42, 1), torch.arange(42) % 3, list("abc"), "tiny")
        return more, val


def other_order(monkeypatch, what):
    """Arguments for another number of images, or the environment of another seed."""
    if what == "images":
        return {"data": MoreImages}, "41 images in the order of seed 0, and these flags give 42 images"
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    return {}, "41 images in the order of seed 0, and these flags give 41 images in the order of seed 7"


@pytest.mark.parametrize("extend", [False, True])
@pytest.mark.parametrize("what", ["images", "seed"])
def test_another_order_is_refused_amid_an_epoch(tmp_path, monkeypatch, what, extend):
    checkpoint, _ = stopped(tmp_path, 3)
    arguments, told = other_order(monkeypatch, what)
    with pytest.raises(UserError, match=f"amid an epoch of {told}"):
        fit(tmp_path, 2, resume=checkpoint, extend=extend, **arguments)


@pytest.mark.parametrize("what", ["images", "seed"])
def test_another_order_from_the_next_epoch_on_is_told(tmp_path, monkeypatch, what):
    checkpoint, _ = stopped(tmp_path, STEPS)
    arguments, _ = other_order(monkeypatch, what)
    with pytest.warns(UserWarning, match="of epochs of 41 images in the order of seed 0; from here on they are of 4"):
        fit(tmp_path, 2, resume=checkpoint, **arguments)
