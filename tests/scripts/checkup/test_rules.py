"""The rules of the doctor, each by itself, and the table that they make."""

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from scripts.checkup import rules_data, rules_run
from scripts.checkup.checks import CHECKS, judge
from scripts.checkup.facts import DataFacts, Facts, Measured, ModelFacts, RunFacts

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
        arguments=frozenset({"queue_size", "teacher_momentum"}),
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


@pytest.mark.parametrize(
    ("rule", "changes", "flag", "otherwise"),
    [
        (rules_run.queue_longer_than_data, {"queues": {"q": 65_536}}, "--model.queue_size", "the length of its queue"),
        (rules_run.queue_never_full, {"total_steps": 10}, "--model.queue_size", "the length of its queue"),
        (rules_run.teacher_stays_behind, {"teacher_left": 0.7}, "--model.teacher_momentum", "momentum of its EMAPair"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_advice_names_only_flags_that_the_method_has(rule, changes, flag, otherwise):
    assert flag in rule(changed(**changes)).advice
    advice = rule(changed(**changes, arguments=frozenset({"m0"}))).advice
    assert otherwise in advice and "--model." not in advice


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
