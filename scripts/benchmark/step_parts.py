"""What a training step does beside the networks' own work, each part on its own, and what it cannot but move."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from callbacks.finite import NonFiniteGuard
from callbacks.momentum import MomentumUpdate
from callbacks.neighbours import Bank, vote
from callbacks.probe import OnlineLinearProbe
from callbacks.queue import QueueUpdate
from methods.backbones import BackboneConfig
from methods.losses.swav import sinkhorn
from methods.moco import MoCo
from methods.optim import OptimConfig

FP32 = 4  # bytes of a number
NUM_CLASSES = 1000
NEIGHBOURS, TEMPERATURE = 20, 0.07
EPSILON, ITERATIONS = 0.05, 3  # of SwAV's assignment


class Sizes(NamedTuple):
    """What the parts work on, beside the parameters."""

    batch_size: int
    """B, images of a training step."""
    bank_size: int
    """N, images among which neighbours are sought."""
    queries: int
    """Q, images of a validation batch."""
    prototypes: int
    """K, SwAV's clusters."""


class Part(NamedTuple):
    """Something that a training step does."""

    run: Callable[[], Any]
    moved: float
    """Bytes that must be read or written."""
    multiplications: float = 0


class Step(NamedTuple):
    """A method, a trainer that has just taken a step with it, and sizes."""

    module: Any
    trainer: Any
    sizes: Sizes


def taken(backbone: str, sizes: Sizes, device: str) -> Step:
    """MoCo v2 with a backbone of this name, after a step: it has a teacher and a queue, and gradients."""
    module: Any = MoCo(backbone=BackboneConfig(backbone)).to(device)
    for parameter in module.parameters():
        parameter.grad = 1e-3 * torch.randn_like(parameter) if parameter.requires_grad else None
    accelerator = "gpu" if device == "cuda" else device
    module.trainer = Trainer(accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False)
    state = {"global_step": 1, "estimated_stepping_batches": 1000, "world_size": 1}  # what callbacks ask it for
    data = SimpleNamespace(num_classes=NUM_CLASSES)
    return Step(module, SimpleNamespace(**state, datamodule=data, precision_plugin=None), sizes)


def teacher(step: Step) -> Part:
    """`MomentumUpdate`: reads students and teachers, writes teachers."""
    callback: Any = MomentumUpdate()
    callback.on_train_batch_start(SimpleNamespace(global_step=0), step.module)
    numbers = sum(p.numel() for p in step.module.teacher.parameters())
    return Part(lambda: callback.on_train_batch_end(step.trainer, step.module), 3 * FP32 * numbers)


def queue(step: Step) -> Part:
    """`QueueUpdate`: reads the keys, writes them into the queue."""
    callback: Any = QueueUpdate()
    keys = torch.randn(step.sizes.batch_size, step.module.queue.keys.shape[1], device=step.module.device)
    outputs = {"enqueue": {"queue": keys}}
    return Part(lambda: callback.on_train_batch_end(step.trainer, step.module, outputs), 2 * FP32 * keys.numel())


def guard(step: Step) -> Part:
    """`NonFiniteGuard`: reads the gradients."""
    callback: Any = NonFiniteGuard()
    callback.on_fit_start(step.trainer, step.module)
    callback.on_train_batch_start(step.trainer, step.module)
    callback.on_before_backward(step.trainer, step.module, torch.ones((), device=step.module.device))
    numbers = sum(p.numel() for p in step.module.parameters() if p.requires_grad)
    nothing = SimpleNamespace(param_groups=[])
    return Part(lambda: callback.on_before_optimizer_step(step.trainer, step.module, nothing), FP32 * numbers)


def optimiser(step: Step, passes: int, name: str, **options: Any) -> Part:
    """A step of the optimiser that `OptimConfig` builds.

    Args:
        step: whose module it trains.
        passes: how many times the parameters' bytes must be read or written.
        name: as in `OptimConfig`.
        options: as in `OptimConfig`.
    """
    settings = OptimConfig(name, lr=1e-3, weight_decay=1e-4, warmup_epochs=0, options=options)
    groups = settings.groups(step.module)
    built, _ = settings.build(groups, global_batch_size=256, total_steps=1000, steps_per_epoch=100)
    # Not the method itself: the scheduler's wrap round it does not keep the optimiser alive.
    return Part(lambda: built.step(), passes * FP32 * sum(p.numel() for group in groups for p in group["params"]))


def probe(step: Step) -> Part:
    """`OnlineLinearProbe`: reads the features; reads and writes the layer and Adam's two moments."""
    callback: Any = OnlineLinearProbe()
    callback.on_fit_start(step.trainer, step.module)
    B, D = step.sizes.batch_size, step.module.feature_dim
    label = torch.randint(NUM_CLASSES, (B,), device=step.module.device)
    outputs = {"features": torch.randn(B, D, device=step.module.device), "label": label}
    return Part(
        lambda: callback.on_train_batch_end(step.trainer, step.module, outputs),
        moved=FP32 * (B * D + 6 * NUM_CLASSES * (D + 1)),
        multiplications=2 * B * D * NUM_CLASSES,  # for the logits, and for the gradient of the weights
    )


def neighbours(step: Step) -> Part:
    """A validation batch is classified by kNN: reads the bank and the queries."""
    N, Q, D, device = step.sizes.bank_size, step.sizes.queries, step.module.feature_dim, step.module.device
    label = torch.randint(NUM_CLASSES, (N,), device=device)
    bank = Bank(torch.randn(N, D, device=device), label, step.module.all_gather, world_size=1)
    queries = torch.randn(Q, D, device=device)

    def classify() -> Tensor:
        return vote(*bank.nearest(queries, NEIGHBOURS), NEIGHBOURS, TEMPERATURE, NUM_CLASSES)

    return Part(classify, moved=FP32 * (N + Q) * D, multiplications=N * Q * D)


def assignment(step: Step) -> Part:
    """SwAV's codes: reads scores, writes codes; what lies between them might stay in the cache."""
    scores = torch.rand(step.sizes.batch_size, 2, step.sizes.prototypes, device=step.module.device).mul_(2).sub_(1)
    return Part(lambda: sinkhorn(scores, EPSILON, ITERATIONS), 2 * FP32 * scores.numel())


PARTS: dict[str, Callable[[Step], Part]] = {
    "teacher": teacher,
    "queue": queue,
    "non-finite guard": guard,
    # Weights and gradients twice, for their norms and for the step; momentum; momentum and weights are written.
    "LARS": partial(optimiser, passes=7, name="lars"),
    "SGD": partial(optimiser, passes=5, name="sgd", momentum=0.9),
    "SGD, foreach": partial(optimiser, passes=5, name="sgd", momentum=0.9, foreach=True),
    "AdamW": partial(optimiser, passes=7, name="adamw"),
    "AdamW, fused": partial(optimiser, passes=7, name="adamw", fused=True),
    "probe": probe,
    "kNN of a batch": neighbours,
    "SwAV's assignment": assignment,
}
"""Every part by name."""
