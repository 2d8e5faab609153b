"""Facts that a run's settings state, and those that follow from them and from the size of the data."""

import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks import KNNMonitor, OnlineLinearProbe
from methods import SupCon
from methods.modules import EMAPair
from scripts.checkup.facts import DataFacts, ModelFacts, RunFacts
from scripts.checkup.memory import machine_memory

WATCHERS = {OnlineLinearProbe: "the probe", KNNMonitor: "kNN"}
LIGHTNINGS_EPOCHS = 1000  # where neither epochs nor steps are limited
INSTANTS = 1000  # at which a teacher's momentum is looked up


def run_facts(config: Any, trainer: Trainer, callbacks: Iterable[Callback]) -> RunFacts:
    """What the Trainer is told.

    Args:
        config: the arguments of the run's Trainer.
        trainer: one with the run's devices, which it counts.
        callbacks: of the run.
    """
    kind = trainer.strategy.root_device.type
    limited_by_steps = config.max_epochs == -1 or (config.max_epochs is None and config.max_steps != -1)
    epochs = math.inf if limited_by_steps else LIGHTNINGS_EPOCHS if config.max_epochs is None else config.max_epochs
    present = list(callbacks)
    return RunFacts(
        accelerator=kind,
        world_size=trainer.world_size,
        ranks_here=trainer.num_devices,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        precision=str(trainer.precision),
        bf16_in_hardware=has_bf16(kind),
        accumulate=config.accumulate_grad_batches or 1,
        max_epochs=epochs,
        check_val_every_n_epoch=config.check_val_every_n_epoch,
        validates=config.limit_val_batches != 0,
        label_watchers=tuple(name for kind, name in WATCHERS.items() if any(isinstance(c, kind) for c in present)),
        checkpoints_kept=sum(checkpoints_kept(c, epochs) for c in present if isinstance(c, ModelCheckpoint)),
        free_disk=free_disk(config.default_root_dir or "."),
        memory=machine_memory(),
    )


def with_length(run: RunFacts, config: Any, data: DataFacts, batches: float | None) -> RunFacts:
    """The run's facts with the length of epochs and of the whole.

    Args:
        run: as `run_facts` gave it.
        config: the arguments of the run's Trainer.
        data: its images.
        batches: of an epoch on one rank; None if it is not known.
    """
    if run.world_size > 1 and data.train_images is not None and data.batch_size:
        batches, limit = data.train_images // (data.batch_size * run.world_size), config.limit_train_batches
        if limit is not None:
            batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if batches is None:
        return run
    steps = run.max_epochs * math.ceil(batches / run.accumulate) if math.isfinite(batches) and batches else batches
    limit = math.inf if config.max_steps in (-1, None) else config.max_steps
    return replace(run, batches_per_epoch=batches, total_steps=min(steps, limit))


def model_facts(module: LightningModule, data: DataFacts, run: RunFacts) -> ModelFacts:
    """What a method, or any other module, says of itself.

    Args:
        module: the run's.
        data: for the global batch.
        run: for the same, and the steps that a teacher follows through.
    """
    optim: Any = getattr(module, "optim", None)
    backbone: Any = module.hparams.get("backbone") or {}
    pairs: list[EMAPair] = module.ema_pairs() if hasattr(module, "ema_pairs") else []  # pyright: ignore[reportCallIssue]
    slowest = max(pairs, key=lambda pair: pair.momentum, default=None)
    images = data.batch_size and data.batch_size * run.world_size * run.accumulate
    steps = run.total_steps
    return ModelFacts(
        name=type(module).__name__,
        arguments=frozenset(module.hparams),
        num_global_views=getattr(module, "num_global_views", None),
        takes_local_views=getattr(module, "takes_local_views", True),
        needs_labels=isinstance(module, SupCon),
        backbone=backbone.get("name", "") if isinstance(backbone, dict) else "",
        small_images=isinstance(backbone, dict) and bool(backbone.get("small_images")),
        has_batch_norm=any(isinstance(layer, _BatchNorm) for layer in module.modules()),
        batch_norm=getattr(module, "batch_norm", "local"),
        micro_batch_size=getattr(module, "micro_batch_size", None),
        queues=queues_of(module),
        teacher_momentum=slowest and slowest.momentum,
        teacher_left=None if slowest is None or steps is None or math.isinf(steps) else share_left(slowest, steps),
        optimizer=optim and optim.optimizer,
        lr=optim and optim.lr,
        peak_lr=optim.peak_lr(images) if optim and images else None,
        lr_scaling=optim.lr_scaling if optim else "none",
        warmup_epochs=optim.warmup_epochs if optim else 0.0,
        milestones=tuple(optim.milestones) if optim else (),
    )


def queues_of(module: LightningModule) -> dict[str, int]:
    """Name -> length of the queues that are filled with keys as training goes on."""
    queues = {name: getattr(part, "keys", None) for name, part in module.named_modules() if hasattr(part, "push")}
    return {name: len(keys) for name, keys in queues.items() if isinstance(keys, torch.Tensor)}


def share_left(pair: EMAPair, steps: float) -> float:
    """How much of the initial network is in a teacher after so many steps: the product of its momenta."""
    momenta = [pair.momentum_at((instant + 0.5) / INSTANTS) for instant in range(INSTANTS)]
    if min(momenta) <= 0:
        return 0.0
    return math.exp(steps * sum(map(math.log, momenta)) / INSTANTS)


def checkpoints_kept(callback: ModelCheckpoint, epochs: float) -> float:
    """Files that lie there at the same time: the best (or all), the last, and the one that is being written."""
    best = epochs if callback.save_top_k == -1 else callback.save_top_k
    return best + bool(callback.save_last) + 1


def free_disk(folder: str) -> int | None:
    """Bytes left where a folder is, or will be made; None if that cannot be told."""
    place = Path(folder).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def has_bf16(device: str) -> bool:
    """Whether a kind of device computes in bf16 by itself."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return True
