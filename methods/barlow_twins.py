"""Barlow Twins: the correlation between two views' embeddings, taken over the batch, should be the identity.

Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021, arXiv:2103.03230,
algorithm 1. Follows facebookresearch/barlowtwins (8e8d284). Deviations: the gradient is that of the global batch's
loss, where that code's is divided by the number of ranks (LARS hides this for weights; `bias_lr_scale` and the weight
decay are where it shows); the standardisation spans all ranks whatever `batch_norm` says, as their SyncBatchNorm does,
and keeps no running averages, which nothing would read.
"""

from typing import Any

from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses.cross_correlation import cross_correlation, distance_to_identity
from methods.modules import mlp


class BarlowTwins(ContrastiveModule):
    """Barlow Twins with the cross-correlation of the global batch."""

    recipe = "byol"
    num_global_views = 2

    def __init__(
        self,
        off_diagonal_weight: float = 0.0051,
        hidden_dim: int = 8192,
        out_dim: int = 8192,
        bias_lr_scale: float = 0.024,
        **base: Any,
    ) -> None:
        """
        Args:
            off_diagonal_weight: the paper's lambda, what a squared correlation of different coordinates costs.
            hidden_dim: width of the projector's two hidden layers.
            out_dim: size of the projection.
            bias_lr_scale: learning rate of biases and norms, relative to that of the weights (authors: 0.0048 to 0.2,
                with a gradient divided by the number of ranks); for LARS, and of no effect with
                `optim.decay_biases`.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if min(off_diagonal_weight, bias_lr_scale) < 0 or min(hidden_dim, out_dim) < 1:
            raise UserError(
                f"BarlowTwins: off_diagonal_weight={off_diagonal_weight} and bias_lr_scale={bias_lr_scale} must be at "
                f"least 0, hidden_dim={hidden_dim} and out_dim={out_dim} at least 1."
            )
        super().__init__(**base)
        self.off_diagonal_weight = off_diagonal_weight
        self.bias_lr_scale = bias_lr_scale
        self.projector = mlp(self.feature_dim, hidden_dim, hidden_dim, out_dim, last_bias=False)

    def param_groups(self) -> list[dict[str, Any]]:
        """Biases and norms, which LARS does not adapt, at a rate of their own."""
        groups = self.optim.groups(self)
        if self.optim.optimizer.lower() != "lars":
            return groups
        return [group if group.get("adapt", True) else group | {"lr_scale": self.bias_lr_scale} for group in groups]

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Each view in a pass of its own: BatchNorm must not mix the two."""
        h1, h2 = (self.backbone(x) for x in views.global_views)  # [B, D]
        return {"h1": h1, "h2": h2, "z1": self.projector(h1), "z2": self.projector(h2)}  # z: [B, d]

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """How far the correlation of the global batch is from the identity."""
        e = embeddings
        c = cross_correlation(e["z1"], e["z2"])  # [d, d]
        loss = distance_to_identity(c, self.off_diagonal_weight)
        logs = {"correlation": c.detach().diagonal().mean()}
        return StepOutput(loss, features=e["h1"], positives=e["h2"], projections=e["z1"], logs=logs)
