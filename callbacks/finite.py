"""Stops at the first number that is not finite and says where it came from; or leaves such batches out."""

import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from callbacks.momentum import MomentumUpdate
from callbacks.offender import Offender, newest_checkpoint
from callbacks.rank_state import mean_over_ranks
from datamodules.errors import UserError

CURE = "Lower --model.optim.lr, or try --trainer.precision 32-true"


@dataclass
class _Look:
    """What is finite of a step, on its way to the host.

    Attributes:
        names: `loss`, then parameters with a gradient.
        finite: [1 + len(names)] bool: everything on all ranks, then each of the names on this one.
        arrived: for CUDA, what to wait for before reading.
    """

    names: list[str]
    finite: Tensor
    arrived: torch.cuda.Event | None

    def all_fine(self) -> bool:
        """Whether everything is finite on all ranks; the same answer on each."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return bool(self.finite[0])

    def not_finite(self) -> list[str]:
        """Names of what is not, on this rank."""
        return [name for name, fine in zip(self.names, self.finite[1:].tolist(), strict=True) if not fine]


class NonFiniteGuard(Callback):
    """Looks at the loss and the gradients of every step, over all ranks, and at the weights before a checkpoint.

    `stop` ends the run with a sentence: which tensor was not finite first, of which images, when. The batch is written
    beside the checkpoints. No checkpoint holds a weight that is not finite. On CUDA the answer is read one step later,
    when it has arrived anyway, so that the host never waits for the step that it has just launched; elsewhere at once,
    and then not even the weights in memory are touched.

    `skip` leaves the batch out on all ranks: no gradient, no keys for queues, no move of teachers, BatchNorm's averages
    as before; watchers see the features of the last good batch once more, without labels. The step counts in the
    schedule. To know in time, the host waits for the device in every step.

    In 16-mixed, where gradients overflow as a matter of course, they are left to the loss scaler. Of several guards in
    `trainer.callbacks` the last counts.
    """

    def __init__(self, action: Literal["stop", "skip"] = "stop", max_skips: int = 10) -> None:
        """
        Args:
            action: what to do with a batch that is not finite: `stop` the run, or `skip` the batch.
            max_skips: batches skipped in a row after which the run stops all the same. Of all that are skipped, so many
                are saved.
        """
        if max_skips < 1:
            raise UserError(f"NonFiniteGuard: max_skips={max_skips} must be at least 1.")
        self.action: Literal["stop", "skip"] = action
        self.max_skips = max_skips
        self.skipped = 0
        self._in_a_row = 0
        self._look: _Look | None = None  # of the running batch
        self._pending: tuple[_Look, Offender] | None = None  # a batch that has not been judged
        self._spoilt = False  # a batch in the running window of accumulated ones was not finite
        self._last_features: Tensor | None = None
        self._constants: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Goes to the front of the callbacks: what it withholds none of them sees."""
        guards = [c for c in trainer.callbacks if isinstance(c, NonFiniteGuard)]  # pyright: ignore[reportAttributeAccessIssue]
        others = [c for c in trainer.callbacks if c not in guards]  # pyright: ignore[reportAttributeAccessIssue]
        trainer.callbacks = [guards[-1], *others]  # pyright: ignore[reportAttributeAccessIssue]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes note of what belongs to the state: weights, averages, and constants that never were finite."""
        self._parameters = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        filled = {id(b) for module in pl_module.modules() if hasattr(module, "push") for b in module.buffers()}
        self._buffers = [b for b in pl_module.buffers() if id(b) not in filled]  # queues change after the step
        self._before = [buffer.clone() for buffer in self._buffers] if self.action == "skip" else []
        self._constants = set(_not_finite(dict(pl_module.named_buffers())))  # such as a mask's -inf
        self._late = self.action == "stop" and pl_module.device.type == "cuda"
        self._scaled = getattr(trainer.precision_plugin, "scaler", None) is not None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Remembers BatchNorm's averages, which a forward pass moves."""
        self._look = None
        self._step = trainer.global_step
        if self.action == "skip" and self._buffers:
            torch._foreach_copy_(self._before, self._buffers)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Takes note of the loss, and of the seed of the step's draws."""
        self._loss, self._seed = loss.detach(), torch.initial_seed()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Takes the gradients away if they, or the loss of a batch behind them, are not finite: nothing moves then."""
        skip_them = self._scaled or self._spoilt  # the scaler's matter; or known not to be finite
        self._look = self._observe([] if skip_them else self._gradients())
        if not self._late and not self._scaled and (self._spoilt or not self._look.all_fine()):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judges this batch, or the one before where this one's answer is still under way."""
        look = self._look or self._observe([])  # a batch without an optimiser step
        place = {"epoch": trainer.current_epoch, "batch": batch_idx, "step": self._step, "step_seed": self._seed}
        place |= {"rank": trainer.global_rank, "world_size": trainer.world_size, "precision": str(trainer.precision)}
        place["seed"] = int(os.environ.get("PL_GLOBAL_SEED", 0))
        this = look, Offender(batch, outputs, place)
        if self.action == "skip":
            self._skip_or_keep(*this, trainer, pl_module)
            return
        if not self._late:
            self._pending = this
        self._judge(trainer)
        self._pending = this if self._late else None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judges the last batch."""
        self._judge(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Judges the last batch and looks at the weights, before the file is opened.

        Raises:
            UserError: naming a weight that is not finite.
        """
        self._judge(trainer)
        bad = [name for name in _not_finite(checkpoint["state_dict"]) if name not in self._constants]
        if mean_over_ranks(torch.tensor(float(bool(bad)), device=pl_module.device)) > 0:
            told = f"{bad[0]}{f' and {len(bad) - 1} more' if bad[1:] else ''}" if bad else "a weight of another rank"
            raise UserError(
                f"Not finite after {trainer.global_step} steps: {told}, though loss and gradients were. No checkpoint "
                f"was written with it. {newest_checkpoint(trainer)}{CURE}."
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how many batches were left out, if any."""
        if self.skipped:
            rank_zero_info(f"Batches that were not finite and have been skipped: {self.skipped}.")

    def _gradients(self) -> list[tuple[str, Tensor]]:
        """This rank's gradients, or shards of them, by the names of the parameters."""
        gradients = [(name, _local(p.grad)) for name, p in self._parameters.items() if p.grad is not None]
        return [(name, gradient) for name, gradient in gradients if gradient.numel()]

    def _observe(self, gradients: list[tuple[str, Tensor]]) -> _Look:
        """Sends what is finite on its way to the host: one number for the loss, one for each gradient."""
        # Their 2-norms: memory is all that they cost, where a maximum takes twenty times as long on a CPU.
        norms = torch._foreach_norm([gradient for _, gradient in gradients]) if gradients else []
        fine = torch.cat([self._loss.reshape(1), *([torch.stack(norms)] if norms else [])]).isfinite()
        everywhere = mean_over_ranks(fine.all().float()) == 1
        finite = torch.cat([everywhere[None], fine]).to("cpu", non_blocking=self._late)
        arrived = torch.cuda.Event() if self._late else None
        if arrived is not None:
            arrived.record()
        return _Look(["loss", *(name for name, _ in gradients)], finite, arrived)

    def _judge(self, trainer: Trainer) -> None:
        """Ends the run if the pending step was not finite; all ranks come to the same answer."""
        pending, self._pending = self._pending, None
        if pending is None or pending[0].all_fine():
            return
        look, offender = pending
        raise UserError(
            f"{offender.account(look.not_finite(), trainer, not self._late)}{offender.saved(trainer)} "
            f"{newest_checkpoint(trainer)}{CURE}, or leave such batches out with --trainer.callbacks+=NonFiniteGuard "
            "--trainer.callbacks.action=skip."
        )

    def _skip_or_keep(self, look: _Look, offender: Offender, trainer: Trainer, pl_module: LightningModule) -> None:
        """Undoes what a batch that is not finite has done, and withholds the rest of it."""
        fine, outputs = look.all_fine(), offender.outputs
        if not fine or self._spoilt:
            for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
                if isinstance(callback, MomentumUpdate):  # as if the batch began only now, after its step
                    callback.on_train_batch_start(trainer, pl_module)
        self._spoilt = trainer.global_step == self._step and (self._spoilt or not fine)
        if fine:
            self._in_a_row, self._last_features = 0, outputs["features"]
            return
        self._in_a_row, self.skipped = self._in_a_row + 1, self.skipped + 1
        told = offender.account(look.not_finite(), trainer, logged=True)
        told += offender.saved(trainer) if self.skipped <= self.max_skips else ""
        if self._in_a_row >= self.max_skips:
            raise UserError(
                f"{told} {newest_checkpoint(trainer)}It is the last of {self._in_a_row} such batches in a row. {CURE}."
            )
        rank_zero_warn(f"{told} It is skipped.")
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._before)
        features = torch.zeros_like(outputs["features"]) if self._last_features is None else self._last_features
        unknown = torch.full_like(outputs["label"], -1)
        outputs |= {"features": features, "positives": None, "projections": None, "enqueue": {}, "label": unknown}


def _local(tensor: Any) -> Tensor:
    """This rank's part of a tensor that is spread over the ranks, or the tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _not_finite(state: dict[str, Any]) -> list[str]:
    """Names of the tensors that hold a number which is not finite; waits for the device once."""
    local = {name: _local(value) for name, value in state.items() if isinstance(value, Tensor)}
    found = {name: x for name, x in local.items() if x.is_floating_point() and x.numel()}
    if not found:
        return []
    fine = torch.stack([x.isfinite().all() for x in found.values()]).tolist()
    return [name for name, is_fine in zip(found, fine, strict=True) if not is_fine]
