"""DCL: SimCLR without the positive in the softmax's denominator, so that small batches will do.

Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, arXiv:2110.06848, eq. (6); with `sigma` DCLW, whose positives
weigh more the less they agree. The authors published no code; checked against lightly 1.6. Deviations from it: the mean
behind DCLW's weights is over the global batch.
"""

from typing import Any

import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import unit_norm
from methods.losses.decoupled import decoupled_nt_xent
from methods.modules import mlp


class DCL(ContrastiveModule):
    """Decoupled contrastive learning over the global batch, on SimCLR's network."""

    recipe = "simclr"
    num_global_views = 2

    def __init__(
        self,
        temperature: float = 0.1,
        sigma: float | None = None,
        hidden_dim: int = 2048,
        out_dim: int = 128,
        **base: Any,
    ) -> None:
        """
        Args:
            temperature: softmax temperature.
            sigma: concentration of DCLW's weights (paper: 0.5); null for DCL, where all positives weigh the same.
            hidden_dim: width of the projector's hidden layer; SimCLR takes the width of the features.
            out_dim: size of the projection.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if temperature <= 0 or (sigma is not None and sigma <= 0) or min(hidden_dim, out_dim) < 1:
            raise UserError(
                f"DCL: temperature={temperature} must be above 0, sigma={sigma} too or null, hidden_dim={hidden_dim} "
                f"and out_dim={out_dim} at least 1."
            )
        super().__init__(**base)
        self.temperature, self.sigma = temperature, sigma
        self.projector = mlp(self.feature_dim, hidden_dim, out_dim, last_norm="affine")

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Both views in one pass: BatchNorm's statistics mix them."""
        h1, h2 = self.backbone(torch.cat(views.global_views)).chunk(2)  # [B, D]
        z1, z2 = unit_norm(self.projector(torch.cat([h1, h2]))).chunk(2)  # [B, d]
        return {"h1": h1, "h2": h2, "z1": z1, "z2": z2}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """Both directions."""
        e = embeddings
        loss = decoupled_nt_xent(e["z1"], e["z2"], self.temperature, self.sigma)
        return StepOutput(loss, features=e["h1"], positives=e["h2"], projections=e["z1"])
