"""Is the representation alive? Spread, rank, alignment and uniformity of the features, in numbers and in words."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from callbacks.rank_state import RankState

COLLAPSED_STD = 0.05
COLLAPSED_RANK = 2.0
SHRINKING_STD = 0.15  # of projections
PROJECTIONS = 512  # of a batch that are measured, and kept in a checkpoint until then


def feature_std(features: Tensor) -> Tensor:
    """Standard deviation of unit-norm features, times sqrt(D): 0 when all are alike, 1 when spread evenly.

    Chen, He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv:2011.10566, section 4.1.

    Args:
        features: [N, D], of any norm.

    Returns:
        Scalar, mean over the D coordinates.
    """
    unit = F.normalize(features.float(), dim=1)
    return unit.std(0).mean() * math.sqrt(features.shape[1])


def effective_rank(features: Tensor) -> Tensor:
    """RankMe: how many directions the features use.

    Garrido et al., "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their
    Rank", ICML 2023, arXiv:2210.02885, eq. (1): exp of the entropy of the normalised singular values of the uncentred
    features.

    Args:
        features: [N, D]; N well above D, or the value is bounded by N.

    Returns:
        Scalar in [1, min(N, D)], NaN if the features are not finite.
    """
    if not features.isfinite().all():
        return features.new_full((), torch.nan)  # the decomposition would raise
    singular = torch.linalg.svdvals(features.float())
    p = singular / singular.sum().clamp_min(1e-12) + 1e-7
    return (-(p * p.log()).sum()).exp()


def num_directions(projections: Tensor) -> Tensor:
    """How many principal directions the variance is spread over: exp of the entropy of the covariance's spectrum.

    Unlike RankMe it takes squares of singular values, of centred rows: small directions count for little.

    Args:
        projections: [N, d], of any norm.

    Returns:
        Scalar in [1, min(N, d)], NaN if the projections are not finite.
    """
    if not projections.isfinite().all():
        return projections.new_full((), torch.nan)
    unit = F.normalize(projections.float(), dim=1)
    variance = torch.linalg.svdvals(unit - unit.mean(0)).square()
    p = variance / variance.sum().clamp_min(1e-12)
    return torch.special.entr(p).sum().exp()


def alignment(features: Tensor, positives: Tensor) -> Tensor:
    """Mean squared distance of positive pairs on the unit sphere, in [0, 4].

    Wang, Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere", ICML 2020, arXiv:2005.10242, eq. (1) with alpha = 2.

    Args:
        features: [B, D], of any norm.
        positives: [B, D], row i another view of the image of row i.
    """
    return (F.normalize(features.float(), dim=1) - F.normalize(positives.float(), dim=1)).square().sum(1).mean()


def uniformity(features: Tensor) -> Tensor:
    """Log of the mean Gaussian potential of all pairs: 0 when all are alike, towards -4 when spread evenly.

    Wang, Isola, arXiv:2005.10242, eq. (2) with t = 2.

    Args:
        features: [N, D] with N >= 2, of any norm.
    """
    return torch.pdist(F.normalize(features.float(), dim=1)).square().mul(-2).exp().mean().log()


class RepresentationMonitor(RankState):
    """Collapse metrics of the validation features at every validation, with a verdict in words and, if wanted, a stop.

    Logs `representation/feature_std`, `representation/effective_rank`, `representation/uniformity` (clean validation
    images) and `representation/alignment` (training views since the last validation, where the method
    gives two). Needs no labels. A representation counts as collapsed when its std is below 0.05 or it uses fewer than 2
    directions.

    Where the method gives projections, the first of the last training batch are measured too, since a collapse in the
    space of the loss comes long before one of the features, and is hidden from them by a BatchNorm: `projection_std`
    and `projection_directions`. They count as shrinking when their std is below 0.15 or their variance keeps to fewer
    than 2 directions.
    """

    def __init__(self, max_images: int = 2048, stop_on_collapse: bool = False, patience: int = 2) -> None:
        """
        Args:
            max_images: validation images that enter the metrics, over all ranks; the cost grows with the square.
            stop_on_collapse: end the run once the features have been collapsed for `patience` validations in a row.
            patience: see `stop_on_collapse`.
        """
        self.max_images, self.stop_on_collapse, self.patience = max_images, stop_on_collapse, patience
        self.verdict = "not measured yet"
        self.collapsed_for = 0
        self._features: list[Tensor] = []
        self._projections: Tensor | None = None  # of the last training batch
        self._alignment: Tensor | None = None  # sum over the batches since the last validation, and their number

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *_) -> None:
        """Adds this batch's alignment to the mean since the last validation, without waiting for the device."""
        projections = outputs.get("projections")
        self._projections = None if projections is None else projections[:PROJECTIONS]
        if outputs.get("positives") is not None:
            value = alignment(outputs["features"], outputs["positives"])
            update = torch.stack([value, torch.ones_like(value)])
            self._alignment = update if self._alignment is None else self._alignment + update

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *_) -> None:
        """Keeps the first features of this rank, padding left out."""
        if not trainer.sanity_checking:
            missing = self.max_images // trainer.world_size - sum(map(len, self._features))
            if missing > 0:
                features = outputs["features"]
                index = outputs.get("index")
                self._features.append((features if index is None else features[index >= 0])[:missing].float())

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes, logs, judges."""
        if not self._features:
            return
        features = self._gather(torch.cat(self._features), trainer, pl_module)
        self._features = []
        if len(features) < 2:
            self.verdict = "not measured: too few validation images"
            return
        std, rank = feature_std(features), effective_rank(features)
        pl_module.log("representation/feature_std", std, sync_dist=True)
        pl_module.log("representation/effective_rank", rank, sync_dist=True)
        pl_module.log("representation/uniformity", uniformity(features), sync_dist=True)
        if self._alignment is not None:
            total, batches = trainer.strategy.reduce(self._alignment, reduce_op="sum")  # pyright: ignore[reportGeneralTypeIssues]
            pl_module.log("representation/alignment", total / batches, sync_dist=True)
            self._alignment = None
        self._judge(float(std), float(rank), features.shape[1], self._shrinking(trainer, pl_module), trainer)

    def _shrinking(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """Logs the spread of the projections; says what is wrong with it, or nothing."""
        if self._projections is None or len(self._projections) < 2:
            return ""
        projections = self._gather(self._projections.float(), trainer, pl_module)
        self._projections = None
        std, directions = feature_std(projections), num_directions(projections)
        pl_module.log("representation/projection_std", std, sync_dist=True)
        pl_module.log("representation/projection_directions", directions, sync_dist=True)
        if std < SHRINKING_STD:
            return f"its projections shrink to a point (std {float(std):.3f})"
        if directions < COLLAPSED_RANK:
            return f"its projections shrink to {float(directions):.1f} of {min(projections.shape)} possible directions"
        return ""

    @staticmethod
    def _gather(features: Tensor, trainer: Trainer, pl_module: LightningModule) -> Tensor:
        """Features of all ranks, as many of each as the rank with the fewest has."""
        if trainer.world_size == 1:
            return features
        fewest = int(pl_module.all_gather(torch.tensor(len(features), device=features.device)).min())  # pyright: ignore[reportAttributeAccessIssue]
        return pl_module.all_gather(features[:fewest]).flatten(0, 1)  # pyright: ignore[reportAttributeAccessIssue]

    def _judge(self, std: float, rank: float, dim: int, shrinking: str, trainer: Trainer) -> None:
        """Puts the numbers into words, warns at the first sign of collapse, stops if asked to."""
        if not math.isfinite(std):
            self.verdict = "broken: the features are not finite"
        elif std < COLLAPSED_STD:
            self.verdict = f"collapsed: all images map to nearly the same point (std {std:.3f})"
        elif rank < COLLAPSED_RANK:
            self.verdict = f"collapsed: the features use {rank:.1f} of {dim} directions"
        elif shrinking:
            self.verdict = f"collapsing: {shrinking}"
        else:
            self.verdict = f"alive: std {std:.2f}, {rank:.0f} of {dim} directions in use"
        if not self.verdict.startswith("alive"):
            rank_zero_warn(f"The representation is {self.verdict} at step {trainer.global_step}.")
        self.collapsed_for = self.collapsed_for + 1 if self.verdict.startswith(("collapsed", "broken")) else 0
        if self.stop_on_collapse and self.collapsed_for >= self.patience:
            rank_zero_info(f"Stopping: {self.verdict}, for {self.collapsed_for} validations in a row.")
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """The verdict's memory."""
        return {"collapsed_for": self.collapsed_for}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the original run stood."""
        self.collapsed_for = state_dict["collapsed_for"]

    def rank_state(self) -> dict[str, Tensor]:
        """The running alignment, and the projections that the next validation measures."""
        kept = {"alignment": self._alignment, "projections": self._projections}
        return {name: tensor for name, tensor in kept.items() if tensor is not None}

    def load_rank_state(self, state: dict[str, Tensor]) -> None:
        """Goes on summing where the original run stood."""
        self._alignment, self._projections = state.get("alignment"), state.get("projections")
