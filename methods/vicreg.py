"""VICReg: two views agree, and each on its own keeps its coordinates varied and uncorrelated; nothing is normalised.

Bardes, Ponce, LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning", ICLR 2022,
arXiv:2105.04906, algorithm 1. Follows facebookresearch/vicreg (4e12602). Deviations: no biases in front of
BatchNorm, where they have no effect.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import full_precision
from methods.losses.vicreg import variance_and_covariance
from methods.modules import mlp


class VICReg(ContrastiveModule):
    """VICReg with variance and covariance over the global batch."""

    recipe = "byol"
    num_global_views = 2

    def __init__(
        self,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        hidden_dim: int = 8192,
        out_dim: int = 8192,
        **base: Any,
    ) -> None:
        """
        Args:
            invariance_weight: the paper's lambda, of the squared difference between the views.
            variance_weight: the paper's mu, of what standard deviations lack to 1.
            covariance_weight: the paper's nu, of the squared covariances.
            hidden_dim: width of the expander's two hidden layers.
            out_dim: size of the embedding.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        weights = (invariance_weight, variance_weight, covariance_weight)
        if min(weights) < 0 or min(hidden_dim, out_dim) < 1:
            raise UserError(
                f"VICReg: invariance, variance and covariance_weight={weights} must be at least 0, "
                f"hidden_dim={hidden_dim} and out_dim={out_dim} at least 1."
            )
        super().__init__(**base)
        self.invariance_weight, self.variance_weight, self.covariance_weight = weights
        self.projector = mlp(self.feature_dim, hidden_dim, hidden_dim, out_dim, last_bias=False)

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Each view in a pass of its own: BatchNorm must not mix the two."""
        h1, h2 = (self.backbone(x) for x in views.global_views)  # [B, D]
        return {"h1": h1, "h2": h2, "z1": self.projector(h1), "z2": self.projector(h2)}  # z: [B, d]

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """The weighted sum; variance is the mean of the two views, covariance their sum, as in the authors' code."""
        e = embeddings
        invariance = full_precision(F.mse_loss)(e["z1"], e["z2"])
        (variance1, covariance1), (variance2, covariance2) = map(variance_and_covariance, (e["z1"], e["z2"]))
        terms = {
            "invariance": invariance,
            "variance": (variance1 + variance2) / 2,
            "covariance": covariance1 + covariance2,
        }
        loss = (
            self.invariance_weight * terms["invariance"]
            + self.variance_weight * terms["variance"]
            + self.covariance_weight * terms["covariance"]
        )
        logs = {name: term.detach() for name, term in terms.items()}
        return StepOutput(loss, features=e["h1"], positives=e["h2"], projections=e["z1"], logs=logs)
