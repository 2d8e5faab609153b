"""Moves teachers after their students."""

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from datamodules.errors import UserError


class MomentumUpdate(Callback):
    """teacher <- m * teacher + (1 - m) * student, once per optimiser step, for every pair that the method declares.

    Runs in `on_train_batch_end`, gated by `global_step`: after the optimiser, outside autocast, before any checkpoint
    is written, and once per window of accumulated batches. Parameters only: a teacher's BatchNorm buffers follow its
    own forward passes. The base attaches it to methods with `ema_pairs`.
    """

    def __init__(self) -> None:
        self._step_before = 0
        self._parameters: dict[nn.Module, tuple[list[Tensor], list[Tensor]]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a precision in which an average cannot move."""
        if trainer.precision in ("bf16-true", "16-true"):
            raise UserError(
                f"Precision {trainer.precision} cannot hold a teacher: its updates are smaller than one rounding step, "
                "so it would never move. Use --trainer.precision bf16-mixed."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the parameters of an earlier fit."""
        self._parameters.clear()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_) -> None:
        """Remembers the step, since a batch need not end in an optimiser step."""
        self._step_before = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_) -> None:
        """Moves every teacher if the optimiser has stepped, with the momentum of the step just done."""
        if trainer.global_step == self._step_before:
            return
        total = trainer.estimated_stepping_batches  # infinite in a run without an end: progress stays 0
        for pair in pl_module.ema_pairs():  # pyright: ignore[reportCallIssue]
            if pair.teacher not in self._parameters:  # to gather some hundred takes longer than to move them
                self._parameters[pair.teacher] = pair.parameters()
            teachers, students = self._parameters[pair.teacher]
            progress = min(1.0, (self._step_before + pair.before_forward) / max(1, total))
            torch._foreach_lerp_(teachers, students, 1 - pair.momentum_at(progress))
