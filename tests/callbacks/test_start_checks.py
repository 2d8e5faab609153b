"""What no run could be resumed from, or ranks have not alike, is refused before the first step."""

import os
from datetime import timedelta

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks.plan import RunPlan
from datamodules.errors import UserError
from tests.support.ranks import on_ranks
from tests.support.replay import Prepared, Replay, batches, quiet_trainer


def watched(window, *callbacks, batches_per_epoch=10, images=None, **arguments):
    """A run of two epochs of prepared batches, with validations; its data says to have so many images."""
    train = batches(torch.zeros(2 * batches_per_epoch, 3), torch.zeros(2 * batches_per_epoch, dtype=torch.long), 2)
    settings = {"max_epochs": 2, "accumulate_grad_batches": window, "enable_checkpointing": bool(callbacks)}
    trainer = quiet_trainer([RunPlan(), *callbacks], **settings | arguments)
    data = Prepared(train, train[:1], 1)
    if images is not None:
        data.num_train_images = images
    trainer.fit(Replay(3), datamodule=data)


def test_several_validation_sets_are_refused():
    train = batches(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), 2)
    data = Prepared(train, train, 1)
    one = data.val_dataloader
    data.val_dataloader = lambda: [one(), one()]
    with pytest.raises(UserError, match=r"val_dataloader\(\) of Prepared gives 2 loaders; training is watched on one"):
        quiet_trainer([RunPlan()], max_epochs=1).fit(Replay(3), datamodule=data)


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


def begin_apart(rank, images):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", TORCHELASTIC_RUN_ID="tests")
    apart = {"images": 1000 - rank} if images else {}
    try:
        watched(1, *[Ahead()] * (rank * (not images)), strategy="ddp", devices=2, enable_checkpointing=False, **apart)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.ddp
def test_ranks_that_begin_at_different_places_all_say_so():
    first, second = on_ranks(2, begin_apart, False)
    assert first == second
    assert "at step 0 (epoch 0, batch 0) rank 0; at step 3 (epoch 0, batch 0) rank 1." in first
    assert "--trainer.default_root_dir must be a folder that all machines see alike" in first


@pytest.mark.ddp
def test_ranks_that_see_other_data_all_say_so():
    first, second = on_ranks(2, begin_apart, True)
    assert first == second
    assert "1,000 training images rank 0; 999 training images rank 1. Each machine has to have all files" in first
