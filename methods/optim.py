"""Optimisation, the same block for every method: optimiser, parameter groups, learning-rate scaling and schedule."""

import itertools
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from datamodules.errors import UserError
from methods.lars import LARS
from methods.optimizers import optimizer_class
from methods.schedules import (
    RateAndDecay,
    Schedule,
    after_warmup,
    constant,
    cosine,
    in_steps,
    multi_step,
    once_an_epoch,
)

FUSED = (Adam, AdamW)  # fused SGD fails where a parameter gets its first gradient after others, as resting ones do
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
    """Weight decay of the weights; biases, norms, tokens and position tables have none unless `decay_biases` is set."""
    decay_biases: bool = False
    """Decay every parameter, and let LARS adapt the rate of each, as the codes of MoCo and SimSiam do."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimiser, as {momentum: 0.9} or {betas: [0.9, 0.95]}."""
    final_weight_decay: float | None = None
    """Weight decay at the end of the run, reached along half a cosine (DINO); null for a constant one."""
    clip_each: float | None = None
    """Norm to which each parameter's gradient is clipped by itself (DINO: 3); null for no such clipping. The norm of
    all together is clipped by `trainer.gradient_clip_val`."""
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How lr grows with the global batch B (images x ranks x accumulated batches): by B / base, its root, or not."""
    lr_base_batch: int = 256
    """The number of images that lr is stated for."""
    warmup_epochs: float = 10.0
    """Epochs of linear warm-up."""
    start_lr_ratio: float = 0.0
    """The warm-up starts at this fraction of the peak."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """After the warm-up: half a cosine to the end of the run, or `steps` at the milestones."""
    final_lr_ratio: float = 0.0
    """The cosine ends at this fraction of the peak; 1 keeps the rate constant after the warm-up."""
    milestones: list[float] = field(default_factory=list)
    """For `steps`: the epochs at whose start the rate falls, increasing."""
    step_factor: float = 0.1
    """For `steps`: what the rate is multiplied by at each of the milestones."""
    lr_interval: Literal["step", "epoch"] = "step"
    """Whether the rate moves after every optimiser step, or is that of an epoch's first step for the whole epoch."""

    def __post_init__(self) -> None:
        """Checks what a type cannot."""
        for name in ("lr", "weight_decay", "warmup_epochs"):
            if getattr(self, name) < 0:
                raise UserError(f"optim: {name}={getattr(self, name)} must be >= 0.")
        for name in ("start_lr_ratio", "final_lr_ratio", "step_factor"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"optim: {name}={getattr(self, name)} must be in [0, 1].")
        if self.final_weight_decay is not None and (self.final_weight_decay < 0 or not self.weight_decay):
            raise UserError(
                f"optim: final_weight_decay={self.final_weight_decay} must be >= 0, and weight_decay above 0 before it."
            )
        if self.clip_each is not None and self.clip_each <= 0:
            raise UserError(f"optim: clip_each={self.clip_each} must be above 0, or null for no clipping.")
        if self.lr_base_batch < 1:
            raise UserError(f"optim: lr_base_batch={self.lr_base_batch} must be at least 1 image.")
        if twice := {"lr", "weight_decay"} & set(self.options):
            raise UserError(f"optim.options holds {', '.join(sorted(twice))}: set it beside options, not within.")
        self._check_schedule()

    def _check_schedule(self) -> None:
        steps, ascent = self.schedule == "steps", [self.warmup_epochs, *self.milestones]
        if self.milestones and not steps:
            raise UserError(f"optim.milestones={self.milestones}: add --model.optim.schedule steps, a cosine has none.")
        if steps and (not self.milestones or any(b <= a for a, b in itertools.pairwise(ascent))):
            raise UserError(
                f"optim.milestones={self.milestones}: steps need rising epochs, all after the warm-up of "
                f"{self.warmup_epochs:g}, as --model.optim.milestones '[120, 160]' of 200 epochs."
            )
        if steps and self.final_lr_ratio:
            raise UserError(f"optim.final_lr_ratio={self.final_lr_ratio} ends a cosine: set it to 0 for steps.")
        if self.lr_interval == "epoch" and self.warmup_epochs and not self.start_lr_ratio:
            raise UserError(
                "optim.lr_interval epoch leaves epoch 0 at rate 0: set --model.optim.warmup_epochs 0, or "
                "--model.optim.start_lr_ratio above 0, say 0.1."
            )

    def peak_lr(self, global_batch_size: int) -> float:
        """The learning rate after warm-up.

        Args:
            global_batch_size: images per optimiser step, over all ranks and accumulated batches.
        """
        ratio = global_batch_size / self.lr_base_batch
        return self.lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[self.lr_scaling]

    def groups(self, *modules: nn.Module, without: tuple[nn.Module, ...] = (), **keys: Any) -> list[dict[str, Any]]:
        """Parameter groups of some networks, for `SSLModule.param_groups`.

        Args:
            modules: whose trainable parameters are taken, one that several share only once.
            without: networks within them that get groups of their own.
            keys: what every group gets besides, as `fixed_lr=True`, see `build`; `name` goes before the groups' names.

        Returns:
            Groups `weights` and `biases, norms, tokens`, or with `decay_biases` one of `all parameters`.
        """
        prefix = f"{keys.pop('name')}: " if "name" in keys else ""
        apart = {id(p) for module in without for p in module.parameters()}
        everything = nn.ModuleList(modules).named_parameters()
        named = [(name, p) for name, p in everything if p.requires_grad and id(p) not in apart]
        whole = {"name": "all parameters", "params": [p for _, p in named]}
        groups = [whole] if self.decay_biases else _split_decay(named)
        return [group | keys | {"name": prefix + group["name"]} for group in groups if group["params"]]

    def build(
        self,
        groups: list[dict[str, Any]],
        global_batch_size: int,
        total_steps: float,
        steps_per_epoch: float,
        fused: bool = False,
    ) -> tuple[Optimizer, LambdaLR]:
        """Makes the optimiser and a scheduler to be stepped after every optimiser step.

        Args:
            groups: torch's. Two keys are ours: `lr_scale` multiplies the group's rate, `fixed_lr` keeps it constant. A
                group's own `lr` is its peak as it stands, not scaled by the batch.
            global_batch_size: images per optimiser step.
            total_steps: optimiser steps of the whole run; infinite for a run without an end (no cosine then).
            steps_per_epoch: optimiser steps per epoch; infinite for data of unknown length.
            fused: let Adam and AdamW take a step in one kernel, unless `options` say how.
        """
        lr = self.peak_lr(global_batch_size)
        optimizer = self._optimizer(groups, lr, fused)
        curve, course = self._curve(total_steps, steps_per_epoch)
        curves = [constant if g.get("fixed_lr") else curve for g in groups]
        final, decay = self.final_weight_decay, f"{self.weight_decay:g}"
        if final is None:
            scheduler = LambdaLR(optimizer, curves)
        else:
            scheduler = RateAndDecay(optimizer, curves, final / self.weight_decay, total_steps)
            decay += f" to {final:g}"
        fixed = ", ".join(g.get("name", "an unnamed group") for g in groups if g.get("fixed_lr"))
        options = ", ".join(f"{name} {value}" for name, value in self.options.items()) or "no further options"
        rank_zero_info(
            f"Optimiser {type(optimizer).__name__}: lr {self.lr:g} for {self.lr_base_batch} images, {lr:g} after "
            f"scaling ({self.lr_scaling}) to the global batch of {global_batch_size}; "
            f"weight decay {decay}{' of biases too' if self.decay_biases else ''}; {course}"
            f"{f' (but for {fixed})' if fixed else ''}; {options}."
        )
        return optimizer, scheduler

    def _curve(self, total_steps: float, steps_per_epoch: float) -> tuple[Schedule, str]:
        """The schedule, and what to say of it."""
        warmup, *milestones = [in_steps(epoch, steps_per_epoch) for epoch in (self.warmup_epochs, *self.milestones)]
        if self.schedule == "cosine":
            after = partial(cosine, start=warmup, end=total_steps, final_ratio=self.final_lr_ratio)
            course = "constant" if math.isinf(total_steps) else f"cosine to {self.final_lr_ratio:g} x peak"
        else:
            after = partial(multi_step, milestones=milestones, factor=self.step_factor)
            course = f"x {self.step_factor:g} at epochs {', '.join(f'{epoch:g}' for epoch in self.milestones)}"
        course = f"warm-up {warmup} of {total_steps:g} steps, then {course}"
        if max([warmup, *milestones]) >= total_steps:
            cut = "its learning rate's peak" if warmup >= total_steps else "all drops of its learning rate"
            rank_zero_info(
                f"The run ends at step {total_steps:g}, before {cut}: train for longer, or set "
                f"--model.optim.{'warmup_epochs' if warmup >= total_steps else 'milestones'} lower."
            )
        curve = partial(after_warmup, schedule=after, warmup_steps=warmup, start_ratio=self.start_lr_ratio)
        if self.lr_interval == "step":
            return curve, course
        length = max(1, in_steps(1, steps_per_epoch))  # an empty data set has epochs of no steps
        return partial(once_an_epoch, schedule=curve, steps_per_epoch=length), f"{course}, once an epoch"

    def _optimizer(self, groups: list[dict[str, Any]], lr: float, fused: bool) -> Optimizer:
        kwargs = {"lr": lr, "weight_decay": self.weight_decay, **self.options}
        factory = optimizer_class(self.optimizer, kwargs)
        if fused and factory in FUSED and "foreach" not in kwargs:
            kwargs.setdefault("fused", True)
        # Only LARS knows of trust scaling, so only LARS is told what to exclude from it.
        ours = GROUP_KEYS if issubclass(factory, LARS) else GROUP_KEYS | {"adapt"}
        torch_groups = [
            {k: g[k] for k in g if k not in ours} | {"lr": g.get("lr", lr) * g.get("lr_scale", 1)} for g in groups
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


def _split_decay(named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """Weights, and what is neither decayed nor trust-scaled: at most one dimension, or a name that ends as `TABLES`."""
    weights, rest = [], []
    for name, parameter in named:
        (rest if parameter.ndim <= 1 or name.endswith(TABLES) else weights).append(parameter)
    return [
        {"name": "weights", "params": weights},
        {"name": "biases, norms, tokens", "params": rest, "weight_decay": 0.0, "adapt": False},
    ]
