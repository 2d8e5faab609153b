"""The doctor: each rule by itself, the clocks, what is read from a run, and the command as a user types it."""

import math
import sys
import time
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from callbacks import KNNMonitor, OnlineLinearProbe
from methods import BYOL, MoCo, SupCon
from methods.backbones import BackboneConfig
from methods.modules import EMAPair
from methods.optim import OptimConfig
from scripts.checkup import rules_data, rules_run
from scripts.checkup.checks import CHECKS, judge
from scripts.checkup.clocks import FEWEST, WARM_UP, DataClock, StepClock
from scripts.checkup.facts import DataFacts, Facts, Measured, ModelFacts, RunFacts
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
from scripts.doctor import main
from tests.datamodules.toys import BadSource, pixels

GIB = 2**30

HEALTHY = Facts(
    DataFacts(
        train_images=50_000,
        val_images=10_000,
        num_classes=10,
        labelled=1.0,
        val_labelled=1.0,
        sampled=256,
        shorter_side=32,
        global_size=32,
        num_global_views=2,
        batch_size=256,
        num_workers=4,
        cache_bytes=GIB // 8,
    ),
    RunFacts(
        cores=8,
        max_epochs=200,
        batches_per_epoch=195,
        total_steps=39_000,
        label_watchers=("the probe", "kNN"),
        checkpoints_kept=3,
        free_disk=100 * GIB,
        memory=64 * GIB,
    ),
    ModelFacts(
        name="MoCo",
        num_global_views=2,
        takes_local_views=False,
        backbone="resnet18",
        small_images=True,
        has_batch_norm=True,
        batch_norm="split:8",
        queues={"queue": 4096},
        teacher_momentum=0.99,
        teacher_left=0.0,
        optimizer="sgd",
        lr=0.03,
        peak_lr=0.03,
        lr_scaling="linear",
        warmup_epochs=10,
    ),
    Measured(
        images=256,
        loader_seconds=0.01,
        views_seconds=0.01,
        step_seconds=0.2,
        loop_seconds=0.22,
        timed=(50, 20, 20),
        parameter_bytes=GIB // 10,
        optimizer_bytes=GIB // 10,
        checkpoint_bytes=GIB // 5,
        memory_before=GIB,
        memory_peak=4 * GIB,
        memory_total=64 * GIB,
    ),
)


def changed(**changes: Any) -> Facts:
    """The healthy run with other facts, each by its name in the first part that has it."""
    facts = HEALTHY
    for part in fields(Facts):
        inner = getattr(facts, part.name)
        assert is_dataclass(inner)
        own = {name: changes.pop(name) for name in [f.name for f in fields(inner)] if name in changes}
        facts = replace(facts, **{part.name: replace(inner, **own)})
    assert not changes, f"no such facts: {changes}"
    return facts


SICK = [
    (rules_data.unreadable_pictures, {"unreadable": ("a.jpg (empty)",)}, "warning", "1 of 256 sampled"),
    (rules_data.unreadable_pictures, {"unreadable": ("x",), "stops_at_unreadable": True}, "problem", "1 of 256"),
    (rules_data.unreadable_pictures, {"unreadable": ("x",) * 30}, "problem", "30 of 256 sampled"),
    (rules_data.enlarged_pictures, {"shorter_side": 32, "global_size": 224}, "warning", "views of 224 px"),
    (rules_data.no_labels, {"labelled": 0.0}, "warning", "the probe and kNN stay off"),
    (rules_data.labels_for_training_only, {"val_labelled": 0.0}, "warning", "validation images have no labels"),
    (rules_data.one_class, {"num_classes": 1}, "warning", "one class"),
    (rules_data.labels_needed, {"needs_labels": True, "labelled": 0.0}, "problem", "learns from labels"),
    (rules_data.labels_needed, {"needs_labels": True, "labelled": 0.9}, "warning", "10% of the images lack"),
    (rules_data.batch_larger_than_data, {"batches_per_epoch": 0, "train_images": 200}, "problem", "no steps: 200"),
    (rules_data.images_left_out, {"train_images": 500, "batches_per_epoch": 1}, "warning", "leaves 244 of 500"),
    (rules_data.too_many_workers, {"num_workers": 5, "ranks_here": 2}, "warning", "10 loading processes share 8"),
    (rules_data.data_too_slow, {"loader_seconds": 0.4}, "warning", "waits for 50%"),
    (rules_data.data_too_slow, {"views_seconds": 0.2, "loop_seconds": 0.4}, "warning", "waits for 50%"),
    (rules_data.memory_full, {"memory_peak": 63 * GIB}, "warning", "98% of the memory"),
    (rules_data.memory_full, {"memory_peak": 16 * GIB, "ranks_here": 4}, "warning", "100% of the memory"),
    (rules_data.cache_too_large, {"cache_bytes": 9 * GIB, "ranks_here": 4}, "warning", "4 rank(s) each keep 9.0"),
    (rules_data.disk_full, {"free_disk": GIB // 2}, "problem", "checkpoints need 0.6 GiB"),
    (rules_run.views_do_not_fit, {"num_global_views": 1}, "problem", "takes 2 global views, the recipe makes 1"),
    (rules_run.views_do_not_fit, {"num_local_views": 6}, "problem", "no local views, the recipe makes 6"),
    (rules_run.stem_too_large, {"small_images": False}, "warning", "resnet18 shrinks views of 32 px"),
    (rules_run.queue_longer_than_data, {"queues": {"queue": 65_536}}, "warning", "false negatives"),
    (rules_run.queue_never_full, {"total_steps": 10}, "warning", "the run has 2560 images"),
    (rules_run.uneven_groups, {"batch_norm": "split:7"}, "warning", "split:7 does not divide 256"),
    (rules_run.uneven_groups, {"micro_batch_size": 100}, "warning", "the last has 56 images"),
    (rules_run.tiny_norm_groups, {"batch_norm": "split:64"}, "warning", "statistics of 4 images"),
    (rules_run.tiny_norm_groups, {"batch_norm": "local", "batch_size": 1}, "problem", "a single image"),
    (rules_run.tiny_norm_groups, {"batch_norm": "local", "micro_batch_size": 51}, "problem", "a single image"),
    (rules_run.unusual_rate, {"optimizer": "adamw", "peak_lr": 0.1}, "problem", "0.1 after scaling is high for adamw"),
    (rules_run.unusual_rate, {"optimizer": "adamw", "peak_lr": 0.02}, "warning", "is high for adamw"),
    (rules_run.unusual_rate, {"optimizer": "lars", "peak_lr": 1e-3}, "warning", "is low for lars"),
    (rules_run.unusual_rate, {"peak_lr": 0.0}, "problem", "nothing will be learned"),
    (rules_run.schedule_longer_than_run, {"max_epochs": 5}, "problem", "warm-up takes 10 epochs, the run has 5"),
    (rules_run.schedule_longer_than_run, {"total_steps": 1000}, "problem", "the run has 5.13"),
    (rules_run.schedule_longer_than_run, {"milestones": (120.0, 300.0)}, "warning", "falls at epoch 300, the run"),
    (rules_run.teacher_stays_behind, {"teacher_momentum": 0.999, "teacher_left": 0.7}, "warning", "still 70%"),
    (rules_run.bf16_emulated, {"precision": "bf16-mixed", "bf16_in_hardware": False}, "warning", "processor has no"),
    (rules_run.shuffle_on_one_rank, {"batch_norm": "shuffle"}, "warning", "there is one"),
    (rules_run.validation_never_reached, {"check_val_every_n_epoch": 201}, "warning", "every 201 epochs"),
]
RULES = [rule for check in CHECKS for rule in check.rules]


@pytest.mark.parametrize(("rule", "changes", "level", "words"), SICK, ids=lambda value: getattr(value, "__name__", ""))
def test_a_rule_speaks_where_it_should(rule, changes, level, words):
    finding = rule(changed(**changes))
    assert finding is not None and finding.level == level
    assert words in finding.found
    assert finding.advice


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_is_silent_about_a_healthy_run_and_where_nothing_is_known(rule):
    assert rule(HEALTHY) is None
    assert rule(Facts()) is None


def test_every_rule_is_tested_and_in_the_table():
    assert {rule for rule, *_ in SICK} == set(RULES)


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        (rules_data.no_labels, {"labelled": 0.0, "label_watchers": ()}),
        (rules_data.cache_too_large, {"cache_bytes": 8 * GIB}),
        (rules_data.memory_full, {"memory_peak": 16 * GIB, "ranks_here": 4, "accelerator": "cuda"}),
        (rules_data.disk_full, {"free_disk": GIB // 2, "checkpoints_kept": 0}),
        (rules_run.queue_longer_than_data, {"queues": {}}),
        (rules_run.tiny_norm_groups, {"batch_norm": "sync", "batch_size": 4, "world_size": 2}),
        (rules_run.tiny_norm_groups, {"batch_norm": "none", "batch_size": 1}),
        (rules_run.tiny_norm_groups, {"has_batch_norm": False, "batch_size": 1}),
        (rules_run.bf16_emulated, {"precision": "bf16-mixed"}),
        (rules_run.shuffle_on_one_rank, {"batch_norm": "shuffle", "world_size": 2}),
        (rules_run.unusual_rate, {"optimizer": "my.Optimizer", "peak_lr": 1000.0}),
        (rules_run.validation_never_reached, {"check_val_every_n_epoch": 201, "validates": False}),
        (rules_run.validation_never_reached, {"check_val_every_n_epoch": 200}),
        (rules_run.schedule_longer_than_run, {"max_epochs": math.inf}),
        (rules_run.stem_too_large, {"small_images": False, "backbone": "convnet"}),
    ],
)
def test_a_rule_is_silent_where_it_does_not_apply(rule, changes):
    assert rule(changed(**changes)) is None


def test_the_table_tells_all_and_takes_the_worst_of_a_subject():
    rows = {row.subject: row for row in judge(HEALTHY)}
    assert set(rows) == {check.subject for check in CHECKS} and {row.level for row in rows.values()} == {"ok"}
    assert rows["duration"].told.startswith("estimated 2 h 23 min: 39,000 batches of 220 ms")
    assert "loader and views alone 12,800 (10 ms and 10 ms a batch), step alone 1,280" in rows["speed"].told
    assert "half-life 69 steps" in rows["teacher"].told
    sick = changed(unreadable=("x",) * 200, shorter_side=8)
    images = next(row for row in judge(sick) if row.subject == "images")
    assert images.level == "problem" and [finding.level for finding in images.findings] == ["problem", "warning"]
    assert {row.subject for row in judge(Facts())} == {"precision", "validation"}


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


TINY = [
    *("--model", "SimCLR", "--model.hidden_dim", "16", "--model.out_dim", "8", "--model.backbone.name", "convnet"),
    *(
        "--model.backbone.in_channels",
        "1",
        "--model.backbone.options",
        "{width: 4}",
        "--model.optim.optimizer",
        "adamw",
    ),
    *("--model.optim.lr", "1e-3", "--model.optim.warmup_epochs", "1", "--data", "Digits"),
    *("--data.max_train_images", "64", "--data.max_val_images", "32", "--data.batch_size", "16"),
    *("--trainer.max_epochs", "40", "--trainer.accelerator", "cpu", "--seconds", "0.3"),
]


def doctor(monkeypatch, capsys, folder: Path, *flags: str) -> tuple[int, str, str]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["doctor.py", *flags])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr()
    return int(stopped.value.code or 0), told.out, told.err


def test_a_healthy_run_passes_and_leaves_only_the_sheet(tmp_path, monkeypatch, capsys):
    code, out, _ = doctor(monkeypatch, capsys, tmp_path, *TINY, "--sheet", "views.png")
    assert code == 0, out
    for words in ("64 to train on, 32 to validate on", "4 batches an epoch, 160 steps", "images/s on one device"):
        assert words in " ".join(out.replace("│", " ").split())
    assert "0 problem(s)" in out  # how fast the data come is this machine's
    with Image.open(tmp_path / "views.png") as sheet:
        assert sheet.width > 300
    assert [path.name for path in tmp_path.iterdir()] == ["views.png"]


def test_a_run_of_a_few_batches_is_not_timed(tmp_path, monkeypatch, capsys):
    _, out, _ = doctor(monkeypatch, capsys, tmp_path, *TINY, "--trainer.max_steps", "3")
    assert "not measured: the run has too few batches" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--data.batch_size", "65"), "There are 64 training images, fewer than one batch of 65"),
        (("--data.views", "swav"), "SimCLR takes no local views, the recipe makes 6"),
        (("--model.optim.warmup_epochs", "40"), "the warm-up takes 40 epochs, the run has 40"),
        (("--trainer.devices", "2", "--data.batch_size", "40"), "an epoch has no steps: 64 images, 40 a batch on each"),
    ],
    ids=["batch", "views", "warm-up", "ranks"],
)
def test_a_run_that_would_fail_or_be_wasted_ends_with_status_1(flags, words, tmp_path, monkeypatch, capsys):
    code, out, _ = doctor(monkeypatch, capsys, tmp_path, *TINY, *flags)
    assert code == 1, out
    assert words in " ".join(out.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "SimCRL"), "Did you mean 'SimCLR'?"),
        ((*TINY, "--trainer.max_epoch", "4"), "Did you mean 'trainer.max_epochs'?"),
        ((*TINY, "--seconds", "0"), "--seconds 0 must be above 0"),
        ((*TINY, "--sheet", "nowhere/x.png"), "--sheet nowhere/x.png: there is no folder nowhere"),
        ((*TINY, "--model.temperature", "0"), "temperature=0.0 must be above 0"),
    ],
)
def test_wrong_flags_are_answered_in_a_sentence(flags, message, tmp_path, monkeypatch, capsys):
    code, out, err = doctor(monkeypatch, capsys, tmp_path, *flags)
    assert code == 2 and not out
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
