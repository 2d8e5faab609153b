"""Optimisation, the same block for every method: optimiser, learning-rate scaling, warm-up and cosine per step."""

import difflib
import importlib
import inspect
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from datamodules.errors import UserError
from methods.lars import LARS

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "lars": LARS,
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
GROUP_KEYS = {"name", "lr_scale", "fixed_lr"}  # ours; everything else in a group belongs to the optimiser
TABLES = (  # what timm and torchvision call parameters that act like biases in more than one dimension
    *("cls_token", "class_token", "dist_token", "reg_token", "mask_token"),
    *("pos_embed", "pos_embedding", "relative_position_bias_table", "layer_scale", "logit_scale"),
)


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule. A recipe spells out all that it relies on; the run prints what was built."""

    optimizer: str = "lars"
    """`lars`, `sgd`, `adam`, `adamw`, or the class path of any other torch optimiser."""
    lr: float = 0.3
    """Learning rate for `lr_base_batch` images; see `lr_scaling`."""
    weight_decay: float = 1e-6
    """Weight decay of the weights; biases, norms, tokens and position tables have none."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimiser, as {momentum: 0.9} or {betas: [0.9, 0.95]}."""
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How lr grows with the global batch B (images x ranks x accumulated batches): B / base, sqrt(B / base), or not at
    all."""
    lr_base_batch: int = 256
    """The number of images that lr is stated for."""
    warmup_epochs: float = 10.0
    """Epochs of linear warm-up from zero."""
    final_lr_ratio: float = 0.0
    """The cosine ends at this fraction of the peak; 1 keeps the rate constant after the warm-up."""

    def __post_init__(self) -> None:
        """Checks what a type cannot."""
        if self.lr < 0 or self.weight_decay < 0 or self.warmup_epochs < 0 or not 0 <= self.final_lr_ratio <= 1:
            raise UserError(
                f"optim: lr={self.lr}, weight_decay={self.weight_decay}, warmup_epochs={self.warmup_epochs} must be "
                f">= 0 and final_lr_ratio={self.final_lr_ratio} in [0, 1]."
            )
        if self.lr_base_batch < 1:
            raise UserError(f"optim: lr_base_batch={self.lr_base_batch} must be at least 1 image.")
        if twice := {"lr", "weight_decay"} & set(self.options):
            raise UserError(f"optim.options holds {', '.join(sorted(twice))}: set it beside options, not within.")

    def peak_lr(self, global_batch_size: int) -> float:
        """The learning rate after warm-up.

        Args:
            global_batch_size: images per optimiser step, over all ranks and accumulated batches.
        """
        ratio = global_batch_size / self.lr_base_batch
        return self.lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[self.lr_scaling]

    def build(
        self, groups: list[dict[str, Any]], global_batch_size: int, total_steps: float, steps_per_epoch: float
    ) -> tuple[Optimizer, LambdaLR]:
        """Makes the optimiser and a scheduler to be stepped after every optimiser step.

        Args:
            groups: `SSLModule.param_groups()`: torch's parameter groups, with two keys of our own: `lr_scale`
                multiplies the group's rate, `fixed_lr` takes it out of warm-up and cosine.
            global_batch_size: images per optimiser step.
            total_steps: optimiser steps of the whole run; infinite for a run without an end (no cosine then).
            steps_per_epoch: optimiser steps per epoch; infinite for data of unknown length.
        """
        lr = self.peak_lr(global_batch_size)
        optimizer = self._optimizer(groups, lr)
        warmup = self._warmup_steps(steps_per_epoch)
        curve = partial(warmup_cosine, warmup_steps=warmup, total_steps=total_steps, final_ratio=self.final_lr_ratio)
        scheduler = LambdaLR(optimizer, [(lambda _: 1.0) if g.get("fixed_lr") else curve for g in groups])
        never = ", longer than the run: the peak is never reached" if warmup >= total_steps else ""
        options = ", ".join(f"{name} {value}" for name, value in self.options.items()) or "no further options"
        rank_zero_info(
            f"Optimiser {type(optimizer).__name__}: lr {self.lr:g} for {self.lr_base_batch} images, {lr:g} after "
            f"scaling ({self.lr_scaling}) to the global batch of {global_batch_size}; "
            f"weight decay {self.weight_decay:g}; warm-up {warmup} of {total_steps:g} steps{never}; "
            f"{options}."
        )
        return optimizer, scheduler

    def _optimizer(self, groups: list[dict[str, Any]], lr: float) -> Optimizer:
        kwargs = {"lr": lr, "weight_decay": self.weight_decay, **self.options}
        factory = self._factory(kwargs)
        # Only LARS knows of trust scaling, so only LARS is told what to exclude from it.
        ours = GROUP_KEYS if issubclass(factory, LARS) else GROUP_KEYS | {"adapt"}
        torch_groups = [
            {"lr": lr * g.get("lr_scale", 1.0)} | {k: v for k, v in g.items() if k not in ours} for g in groups
        ]
        try:
            optimizer = factory(torch_groups, **kwargs)
        except (TypeError, ValueError) as error:  # a momentum of -1, betas that are no pair, ...
            raise UserError(f"optim.optimizer {self.optimizer!r}: {error}.") from error
        if foreign := {key for group in torch_groups for key in group} - {"params", *optimizer.defaults}:
            raise UserError(
                f"The method sets {', '.join(sorted(foreign))} for some of its parameters, which {factory.__name__} "
                "does not know: choose another --model.optim.optimizer, such as sgd or adamw."
            )
        return optimizer

    def _warmup_steps(self, steps_per_epoch: float) -> int:
        if self.warmup_epochs and math.isinf(steps_per_epoch):
            raise UserError(
                f"A warm-up of {self.warmup_epochs:g} epochs needs data of known length: set "
                "trainer.limit_train_batches to the batches of an epoch, or optim.warmup_epochs to 0."
            )
        return round(self.warmup_epochs * steps_per_epoch) if self.warmup_epochs else 0

    def _factory(self, kwargs: dict[str, Any]) -> type[Optimizer]:
        """The optimiser's class, after checking that it takes the options."""
        factory = OPTIMIZERS.get(self.optimizer.lower()) or _import(self.optimizer)
        accepted = set(inspect.signature(factory).parameters) - {"params"}
        for name in kwargs:
            if name not in accepted:
                near = difflib.get_close_matches(name, accepted, n=1)
                raise UserError(
                    f"{factory.__name__} takes no {name!r}{f', did you mean {near[0]!r}?' if near else '.'} It takes "
                    f"{', '.join(sorted(accepted))}: change --model.optim.options."
                )
        return factory


def _import(path: str) -> type[Optimizer]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        near = difflib.get_close_matches(path.lower(), OPTIMIZERS, n=1)
        raise UserError(
            f"optim.optimizer {path!r} is unknown{f', did you mean {near[0]!r}?' if near else '.'} Give one of "
            f"{', '.join(OPTIMIZERS)} or the class path of a torch optimiser."
        )
    return found


def warmup_cosine(step: int, warmup_steps: float, total_steps: float, final_ratio: float = 0.0) -> float:
    """Factor of the peak learning rate: linear from 0 over the warm-up, then half a cosine to `final_ratio`.

    Loshchilov, Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, eq. (5) without restarts; warm-up as in SimCLR's code: step
    0 has rate 0.

    Args:
        step: optimiser steps done so far.
        warmup_steps: length of the warm-up in optimiser steps.
        total_steps: length of training in optimiser steps, may be infinite.
        final_ratio: factor at and after `total_steps`.
    """
    if step < warmup_steps:
        return step / warmup_steps
    if math.isinf(total_steps):
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1.0, total_steps - warmup_steps))
    return final_ratio + (1 - final_ratio) * (1 + math.cos(math.pi * progress)) / 2


def split_decay(module: nn.Module) -> list[dict[str, Any]]:
    """Two parameter groups: weights, and what is neither decayed nor trust-scaled.

    Args:
        module: its trainable parameters are split.

    Returns:
        Groups `weights` and `biases, norms, tokens`: parameters with at most one dimension, or whose name ends in one
        of `TABLES`.
    """
    weights, rest = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (rest if parameter.ndim <= 1 or name.endswith(TABLES) else weights).append(parameter)
    groups = [
        {"name": "weights", "params": weights},
        {"name": "biases, norms, tokens", "params": rest, "weight_decay": 0.0, "adapt": False},
    ]
    return [group for group in groups if group["params"]]
