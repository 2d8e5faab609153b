"""What the doctor's rules judge: the clocks, and what is read from a run."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from callbacks import KNNMonitor, OnlineLinearProbe
from methods import BYOL, MoCo, SupCon
from methods.backbones import BackboneConfig
from methods.modules import EMAPair
from methods.optim import OptimConfig
from scripts.checkup.clocks import FEWEST, WARM_UP, DataClock, StepClock
from scripts.checkup.facts import DataFacts, RunFacts
from scripts.checkup.images import labelled_share, sample
from scripts.checkup.memory import PeakMemory
from scripts.checkup.settings import (
    checkpoints_kept,
    free_disk,
    model_facts,
    queues_of,
    run_facts,
    share_left,
    with_length,
)
from tests.datamodules.toys import BadSource, pixels


class Time:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Time:
    moved = Time()
    monkeypatch.setattr(time, "perf_counter", moved)
    return moved


@pytest.mark.parametrize("window", [1, 4])
def test_the_step_clock_times_steps_and_then_the_loop(clock, window):
    waits: list[float] = []

    def wait() -> None:
        clock.now += 0.5  # what the device still has to do
        waits.append(clock.now)

    steps = StepClock(seconds=20, window=window, wait=wait)
    while steps.phase != "over":
        clock.now += 3  # for the data
        before = steps.phase
        steps.begin()
        clock.now += 2
        steps.end()
        if before == "loop" == steps.phase:
            assert waits[-1] < clock.now - 4  # nobody waits amid the loop
    assert steps.step_seconds / steps.steps == pytest.approx(2.5)
    assert steps.loop_seconds / steps.loops == pytest.approx(5, abs=0.2)
    assert steps.steps % window == 0 and steps.loops % window == 0 and min(steps.steps, steps.loops) >= FEWEST
    assert steps.loop_seconds >= 20
    assert len(waits) == 2 * steps.steps + 3  # before and after each step, between the phases, and at the end


def test_the_step_clock_sums_up_what_there_was(clock):
    steps = StepClock(seconds=0, window=1, wait=lambda: None)
    for _ in range(WARM_UP + FEWEST + 1):
        clock.now += 1
        steps.begin()
        clock.now += 1
        steps.end()
    assert (steps.phase, steps.steps, steps.loops) == ("loop", FEWEST, 1)
    steps.finish()
    assert steps.loop_seconds == 2


def test_the_data_clock_leaves_the_first_batches_out(clock):
    loading = DataClock(seconds=30, workers=2)
    for batch in range(100):
        clock.now += 1000 if batch < WARM_UP + 2 else 4
        loading.loaded()
        clock.now += 1
        if loading.made():
            break
    assert loading.loader_seconds / loading.batches == 4
    assert loading.views_seconds / loading.batches == 1
    assert loading.batches == 6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_a_peak_is_seen_though_it_is_over():
    memory = PeakMemory(torch.device("cpu"))
    memory.start()
    held = torch.ones(64 * 2**20)  # 256 MiB
    time.sleep(0.05)
    del held
    memory.stop()
    assert memory.before is not None and memory.peak is not None and memory.total is not None
    assert 200 * 2**20 < memory.peak - memory.before < 400 * 2**20 < memory.total


def test_a_sample_names_what_cannot_be_read():
    source = BadSource(pixels(40, size=24), bad={0, 39})
    assert sample(source) == (40, ("picture 0 (it is broken)", "picture 39 (it is broken)"), 24)
    assert sample(source, count=2) == (2, ("picture 0 (it is broken)", "picture 39 (it is broken)"), None)


def test_the_share_with_labels():
    assert labelled_share(torch.tensor([0, -1, 3, -1])) == 0.5
    assert labelled_share(None) is None


def test_what_is_left_of_the_first_network_in_a_teacher():
    pair = EMAPair((nn.Linear(1, 1),), nn.Linear(1, 1), 0.99, 1.0)
    wanted = math.prod(pair.momentum_at(step / 300) for step in range(300))
    assert share_left(pair, 300) == pytest.approx(wanted, rel=0.02)
    assert share_left(EMAPair((), nn.Linear(1, 1), 0.0, 0.0), 5) == 0


def test_files_that_lie_there_at_once():
    assert checkpoints_kept(ModelCheckpoint(monitor="knn/val_top1", save_top_k=2, save_last=True), 90) == 4
    assert checkpoints_kept(ModelCheckpoint(save_top_k=-1), 90) == 91


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert free_disk(str(tmp_path / "a" / "b")) == pytest.approx(free_disk(str(tmp_path)), rel=0.1)


class Config:
    """The Trainer's arguments as the command line leaves them."""

    def __init__(self, **changes: Any) -> None:
        self.max_epochs, self.max_steps, self.accumulate_grad_batches = 10, -1, 2
        self.check_val_every_n_epoch, self.limit_val_batches, self.limit_train_batches = 1, None, None
        self.default_root_dir = "."
        vars(self).update(changes)


def a_trainer() -> Trainer:
    return Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)


@pytest.mark.parametrize(
    ("changes", "ranks", "batches", "steps"),
    [
        ({}, 1, 11, 60),
        ({"max_steps": 7}, 1, 11, 7),
        ({"max_epochs": -1, "max_steps": 7}, 1, 11, 7),
        ({"max_epochs": None}, 1, 11, 6000),
        ({}, 4, 2, 10),
        ({"limit_train_batches": 1}, 4, 1, 10),
        ({"limit_train_batches": 0.5}, 4, 1, 10),
    ],
)
def test_the_length_of_a_run(changes, ranks, batches, steps):
    config, data = Config(**changes), DataFacts(train_images=89, batch_size=8)
    run = replace(run_facts(config, a_trainer(), [KNNMonitor(), OnlineLinearProbe()]), world_size=ranks)
    run = with_length(run, config, data, 11)
    assert (run.batches_per_epoch, run.total_steps) == (batches, steps)
    assert run.label_watchers == ("the probe", "kNN") and run.checkpoints_kept == 0


def test_what_a_method_says_of_itself():
    small: dict[str, Any] = {
        "backbone": BackboneConfig("convnet", options={"width": 4}),
        "optim": OptimConfig("sgd", lr=0.1, weight_decay=0.0, lr_scaling="linear", lr_base_batch=256),
        "hidden_dim": 8,
        "out_dim": 4,
    }
    run, data = RunFacts(total_steps=100, world_size=2, accumulate=2), DataFacts(batch_size=64)
    moco = MoCo(queue_size=32, teacher_momentum=0.9, batch_norm="split:4", **small)
    facts = model_facts(moco, data, run)
    assert (facts.name, facts.queues, facts.peak_lr, facts.lr) == ("MoCo", {"queue": 32}, 0.1, 0.1)
    assert (facts.backbone, facts.small_images, facts.has_batch_norm) == ("convnet", False, True)
    assert {"queue_size", "teacher_momentum"} <= facts.arguments
    assert facts.teacher_momentum == 0.9 and facts.teacher_left == pytest.approx(0.9**100, rel=1e-6)
    assert (facts.num_global_views, facts.takes_local_views, facts.needs_labels) == (2, False, False)
    assert model_facts(SupCon(**small), data, run).needs_labels
    assert queues_of(BYOL(**small)) == {}
    plain = model_facts(a_plain_module(), data, run)
    assert plain.optimizer is None and plain.teacher_momentum is None and plain.takes_local_views


def a_plain_module() -> Any:
    """A LightningModule that is none of ours."""
    from pytorch_lightning import LightningModule

    return LightningModule()
