"""A linear classifier that learns beside the method, on its detached features."""

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from callbacks.rank_state import RankState, mean_over_ranks
from datamodules.errors import UserError

PARTS = ("layer", "optimizer", "scale")  # of the probe, equal on all ranks


def count_right(logits: Tensor, label: Tensor) -> Tensor:
    """[2] int64: right answers among the labelled images, and labelled images.

    Args:
        logits: [B, C].
        label: [B], -1 where unknown.
    """
    known = label >= 0
    return torch.stack([((logits.argmax(1) == label) & known).sum(), known.sum()])


class _Standardise(nn.Module):
    """Features with zero mean and unit variance over the global batch; running statistics in evaluation.

    Makes one learning rate fit features of any scale. Differs from BatchNorm in that it is global on any device and
    takes no gradient.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, dim: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))

    def forward(self, h: Tensor) -> Tensor:
        return (h - self.mean) / (self.var + 1e-5).sqrt()

    def observe(self, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        """Takes in the global batch's first two moments, returns its mean and variance."""
        var = (square - mean**2).clamp_min(0)
        self.mean.lerp_(mean, self.momentum)
        self.var.lerp_(var, self.momentum)
        return mean, var


class OnlineLinearProbe(RankState):
    """Linear top-1 of the features while they are learned, at no cost to the method's gradient.

    Costs no forward pass: own layer, own optimiser (Adam), fp32, gradients averaged over ranks, all of it in the
    checkpoint. The layer starts at zero: the problem is convex, and all ranks agree. Trained on the features of
    augmented views, validated on clean images. Logs `probe/train_top1` (mean over the epoch) and `probe/val_top1`.
    Off, with a word, where the data has no labels.
    """

    def __init__(self, lr: float = 1e-3, weight_decay: float = 0.0, name: str = "probe") -> None:
        """
        Args:
            lr: Adam's learning rate, for features of unit variance.
            weight_decay: decoupled weight decay.
            name: prefix of the logged values; two probes need two names.
        """
        self.lr, self.weight_decay, self.name = lr, weight_decay, name
        self.layer: nn.Linear | None = None
        # Right answers and labelled images of the running epoch, on this rank.
        self._train_count = self._val_count = torch.zeros(2, dtype=torch.int64)
        self._restored: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """Two probes may live beside each other."""
        return f"OnlineLinearProbe:{self.name}"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Builds the layer for the module's features and the data's classes, and takes up a restored state."""
        num_classes = getattr(getattr(trainer, "datamodule", None), "num_classes", None)
        if num_classes is None:
            rank_zero_info("The data has no labels: the online probe is off. Collapse metrics are shown all the same.")
            return
        dim, device = pl_module.feature_dim, pl_module.device
        self.scale = _Standardise(dim).to(device)  # pyright: ignore[reportArgumentType]
        self.layer = nn.Linear(dim, num_classes, device=device)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.optimizer = torch.optim.AdamW(self.layer.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        self._train_count = self._train_count.to(device)
        self._val_count = torch.zeros_like(self._train_count)
        if self._restored is not None:
            self._load(self._restored)
            self._restored = None

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *_) -> None:
        """One step on this batch's features."""
        if self.layer is None:
            return
        h, label = outputs["features"].float(), outputs["label"]
        if label.ndim != 1:
            raise UserError(
                f"The online probe takes one class an image, the labels are of shape {tuple(label.shape)}: remove "
                "OnlineLinearProbe from trainer.callbacks, or give the data single labels."
            )
        known = (label >= 0).sum().expand(1, h.shape[1])
        mean, square, labelled = mean_over_ranks(torch.cat([h.mean(0)[None], (h**2).mean(0)[None], known]))
        mean, var = self.scale.observe(mean, square)
        x = (h - mean) / (var + 1e-5).sqrt()
        with torch.enable_grad():
            logits = self.layer(x)
            # Sum over the labelled images, divided by their mean number per rank: the mean over ranks of the gradients
            # is then that of the global mean, wherever the unlabelled images lie.
            loss = F.cross_entropy(logits, label, ignore_index=-1, reduction="sum") / labelled[0].clamp_min(1e-9)
            grads = torch.autograd.grad(loss, (self.layer.weight, self.layer.bias))
        grad = mean_over_ranks(torch.cat([grads[0], grads[1][:, None]], dim=1))  # [C, D + 1]
        self.layer.weight.grad, self.layer.bias.grad = grad[:, :-1].contiguous(), grad[:, -1].contiguous()
        self.optimizer.step()
        self._train_count += count_right(logits, label)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the mean training accuracy of the epoch."""
        if self.layer is not None:
            self._log_top1("train_top1", self._train_count, trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation on its own takes the layer from the checkpoint."""
        if trainer.state.fn == "validate" and self._restored:
            self.on_fit_start(trainer, pl_module)

    @torch.no_grad()
    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *_) -> None:
        """Counts what the layer gets right on clean images."""
        if self.layer is not None and not trainer.sanity_checking:
            logits = self.layer(self.scale(outputs["features"].float()))
            self._val_count += count_right(logits, outputs["label"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the validation accuracy over all ranks."""
        if self.layer is not None and not trainer.sanity_checking:
            self._log_top1("val_top1", self._val_count, trainer, pl_module)

    def _log_top1(self, name: str, count: Tensor, trainer: Trainer, pl_module: LightningModule) -> None:
        right, labelled = trainer.strategy.reduce(count, reduce_op="sum")  # pyright: ignore[reportGeneralTypeIssues]
        pl_module.log(f"{self.name}/{name}", right / labelled, sync_dist=True)
        count.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Layer, optimiser and statistics."""
        if self.layer is None:
            return self._restored or {}
        return {part: getattr(self, part).state_dict() for part in PARTS}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state until the layer exists: Lightning restores callbacks before `on_fit_start`."""
        self._restored = {part: state_dict[part] for part in PARTS if part in state_dict}

    def rank_state(self) -> dict[str, Tensor]:
        """The accuracy of the running epoch."""
        return {"train_top1": self._train_count}

    def load_rank_state(self, state: dict[str, Tensor]) -> None:
        """Goes on counting where the original run stood."""
        self._train_count = state["train_top1"]

    def _load(self, state: dict[str, Any]) -> None:
        assert self.layer is not None
        if state and (there := tuple(state["layer"]["weight"].shape)) != (here := tuple(self.layer.weight.shape)):
            raise UserError(
                f"The checkpoint's probe has {there[0]} classes of {there[1]} features, this run {here[0]} of "
                f"{here[1]}: resume with the data and backbone of the original run."
            )
        for part, value in state.items():
            getattr(self, part).load_state_dict(value)
