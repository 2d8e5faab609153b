"""The rows of the doctor's table: what is told of each subject, and the rules that judge it."""

import math
from collections.abc import Callable
from typing import NamedTuple

from callbacks.pace import clock
from scripts.checkup import rules_data, rules_run
from scripts.checkup.facts import Facts
from scripts.checkup.finding import Finding, Level, Rule
from scripts.checkup.rules_run import half_life, smallest_norm_group

GIB = 2**30


class Row(NamedTuple):
    """A line of the table; `findings` is empty where all is well."""

    subject: str
    told: str
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The worst of its findings."""
        levels = {finding.level for finding in self.findings}
        return "problem" if "problem" in levels else "warning" if levels else "ok"


class Check(NamedTuple):
    """A subject: what to tell of it (nothing where it does not apply or is not known), and its rules."""

    subject: str
    tell: Callable[[Facts], str]
    rules: tuple[Rule, ...]


def judge(facts: Facts) -> list[Row]:
    """Every subject that there is something to say of, in the order in which it is read."""
    rows = []
    for check in CHECKS:
        findings = tuple(found for rule in check.rules if (found := rule(facts)))
        told = check.tell(facts)
        if told or findings:
            rows.append(Row(check.subject, told, findings))
    return rows


def _images(facts: Facts) -> str:
    data = facts.data
    if data.train_images is None:
        return ""
    told = f"{data.train_images:,} to train on"
    if data.val_images is not None:
        told += f", {data.val_images:,} to validate on"
    if data.sampled:
        told += f"; of {data.sampled} sampled, {data.sampled - len(data.unreadable)} can be read"
    return told + (f", shorter side {data.shorter_side} px (median)" if data.shorter_side else "")


def _labels(facts: Facts) -> str:
    data = facts.data
    if data.labelled is None:
        return ""
    return f"{data.num_classes or 0} classes, {data.labelled:.0%} of the training images labelled"


def _views(facts: Facts) -> str:
    data = facts.data
    if data.num_global_views is None:
        return ""
    local = f" and {data.num_local_views} local" if data.num_local_views else ""
    return f"{data.num_global_views} global{local} of an image, {data.global_size} px"


def _batch(facts: Facts) -> str:
    data, run = facts.data, facts.run
    if data.batch_size is None:
        return ""
    parts = [f"{data.batch_size} images"]
    parts += [f"{run.world_size} ranks"] * (run.world_size > 1) + [f"{run.accumulate} batches"] * (run.accumulate > 1)
    told = " x ".join(parts) + (f" = {facts.global_batch}" if len(parts) > 1 else "")
    if run.batches_per_epoch is not None:
        told += f"; {run.batches_per_epoch:,.0f} batches an epoch"
    return told + (f", {run.total_steps:,.0f} steps in all" if run.total_steps is not None else "")


def _rate(facts: Facts) -> str:
    model = facts.model
    if model.optimizer is None or model.lr is None:
        return ""
    scaled = f", {model.peak_lr:g} after scaling ({model.lr_scaling})" if model.peak_lr is not None else ""
    return f"{model.optimizer}: {model.lr:g}{scaled}, warm-up {model.warmup_epochs:g} epochs"


def _teacher(facts: Facts) -> str:
    momentum, left = facts.model.teacher_momentum, facts.model.teacher_left
    if momentum is None:
        return ""
    told = f"momentum {momentum:g} at first, half-life {half_life(momentum):.0f} steps"
    return told + (f"; {left:.1%} of the first network left at the end" if left is not None else "")


def _queue(facts: Facts) -> str:
    batch = facts.global_batch
    return "; ".join(
        f"{name}: {size:,} keys" + (f", full after {math.ceil(size / batch):,} steps" if batch else "")
        for name, size in facts.model.queues.items()
    )


def _norms(facts: Facts) -> str:
    group = smallest_norm_group(facts)
    return "" if group is None else f"{facts.model.batch_norm}, statistics of at least {group} images"


def _precision(facts: Facts) -> str:
    return f"{facts.run.precision} on {facts.run.accelerator}"


def _loading(facts: Facts) -> str:
    data = facts.data
    if data.batch_size is None:
        return ""
    cached = f", {data.cache_bytes / GIB:.2f} GiB of decoded images kept" if data.cache_bytes else ""
    return f"{data.num_workers} processes per rank, {facts.run.cores} cores{cached}"


def _speed(facts: Facts) -> str:
    m = facts.measured
    if m is None:
        return ""
    data_rate = m.images / (m.loader_seconds + m.views_seconds)
    return (
        f"images/s on one device: loader and views alone {data_rate:,.0f} ({_ms(m.loader_seconds)} and "
        f"{_ms(m.views_seconds)} a batch), step alone {m.images / m.step_seconds:,.0f} ({_ms(m.step_seconds)}), "
        f"together {m.images / m.loop_seconds:,.0f}; means over {m.timed[0]}, {m.timed[1]} and {m.timed[2]} batches"
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _duration(facts: Facts) -> str:
    m, run = facts.measured, facts.run
    if m is None or not run.total_steps or math.isinf(run.total_steps):
        return ""
    batch_seconds = max(m.loop_seconds, m.loader_seconds)
    seconds = run.total_steps * run.accumulate * batch_seconds
    ranks = f" on {run.world_size} ranks that never wait for each other" if run.world_size > 1 else ""
    return (
        f"estimated {clock(seconds)}{ranks}: {run.total_steps * run.accumulate:,.0f} batches of {_ms(batch_seconds)}; "
        "validation and watchers come on top"
    )


def _memory(facts: Facts) -> str:
    m = facts.measured
    if m is None:
        return ""
    told = f"parameters and buffers {_size(m.parameter_bytes)}, optimiser {_size(m.optimizer_bytes)} (counted)"
    if m.memory_before is not None and m.memory_peak is not None:
        what = "tensors" if facts.run.accelerator == "cuda" else "the process"
        total = f" of {_size(m.memory_total)}" if m.memory_total else ""
        told += (
            f"; {what} held {_size(m.memory_before)} before the first step and {_size(m.memory_peak)} at most"
            f"{total} (measured): activations, gradients and optimiser are the rest"
        )
    return told


def _size(number: float) -> str:
    return f"{number / GIB:.2f} GiB" if number >= GIB else f"{number / 2**20:.1f} MiB"


def _disk(facts: Facts) -> str:
    m, run = facts.measured, facts.run
    if m is None or not run.checkpoints_kept:
        return ""
    free = f", {_size(run.free_disk)} free" if run.free_disk is not None else ""
    needed = m.checkpoint_bytes * run.checkpoints_kept
    return f"estimated {_size(needed)}: {run.checkpoints_kept:,.0f} checkpoints of {_size(m.checkpoint_bytes)}{free}"


def _validation(facts: Facts) -> str:
    run = facts.run
    if not run.validates or run.check_val_every_n_epoch is None:
        return ""
    return f"every {run.check_val_every_n_epoch} epoch(s), of {run.max_epochs:g}"


CHECKS = (
    Check("images", _images, rules_data.IMAGES),
    Check("labels", _labels, rules_data.LABELS),
    Check("views", _views, rules_run.VIEWS),
    Check("batches", _batch, rules_data.BATCHES),
    Check("learning rate", _rate, rules_run.RATE),
    Check("teacher", _teacher, rules_run.TEACHER),
    Check("queue", _queue, rules_run.QUEUE),
    Check("BatchNorm", _norms, rules_run.NORMS),
    Check("validation", _validation, rules_run.VALIDATION),
    Check("precision", _precision, rules_run.PRECISION),
    Check("loading", _loading, rules_data.LOADING),
    Check("speed", _speed, rules_data.SPEED),
    Check("duration", _duration, ()),
    Check("memory", _memory, rules_data.MEMORY),
    Check("disk", _disk, rules_data.DISK),
)
