"""Alignment and uniformity as a loss: InfoNCE's two limits, optimised directly and without a softmax.

Wang, Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere",
ICML 2020, arXiv:2005.10242, section 5. Follows SsnL/align_uniform (e256d47). Deviations: the head is SimCLR's, since
the authors' small AlexNet ends in layers of its own; uniformity is that of the global batch (that code's loss runs on
one device); crops begin at 20 % of the area, as in `moco_v1`, there at 8 % (as in configs/cifar10); weights start as
torch's layers do, there with a deviation of 0.02.
"""

from typing import Any

import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import unit_norm
from methods.losses.align_uniform import alignment, uniformity
from methods.modules import mlp


class AlignUniform(ContrastiveModule):
    """Alignment of the two views, and uniformity of each over the global batch."""

    recipe = "moco_v1"
    num_global_views = 2

    def __init__(
        self,
        align_weight: float = 1.0,
        uniform_weight: float = 1.0,
        alpha: float = 2.0,
        t: float = 2.0,
        hidden_dim: int = 2048,
        out_dim: int = 128,
        **base: Any,
    ) -> None:
        """
        Args:
            align_weight: weight of the alignment.
            uniform_weight: weight of the uniformity, the mean of the two views'.
            alpha: power of the distance between views.
            t: sharpness of the Gaussian potential.
            hidden_dim: width of the projector's hidden layer.
            out_dim: size of the projection.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if min(align_weight, uniform_weight) < 0 or alpha < 1 or t <= 0 or min(hidden_dim, out_dim) < 1:
            raise UserError(
                f"AlignUniform: align_weight={align_weight} and uniform_weight={uniform_weight} must be at least 0, "
                f"alpha={alpha} at least 1, t={t} above 0, hidden_dim={hidden_dim} and out_dim={out_dim} at least 1."
            )
        super().__init__(**base)
        self.align_weight, self.uniform_weight = align_weight, uniform_weight
        self.alpha, self.t = alpha, t
        self.projector = mlp(self.feature_dim, hidden_dim, out_dim)

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Both views in one pass: BatchNorm's statistics mix them."""
        h1, h2 = self.backbone(torch.cat(views.global_views)).chunk(2)  # [B, D]
        z1, z2 = unit_norm(self.projector(torch.cat([h1, h2]))).chunk(2)  # [B, d]
        return {"h1": h1, "h2": h2, "z1": z1, "z2": z2}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """The weighted sum of the two terms."""
        e = embeddings
        align = alignment(e["z1"], e["z2"], self.alpha)
        uniform = (uniformity(e["z1"], self.t) + uniformity(e["z2"], self.t)) / 2
        return StepOutput(
            self.align_weight * align + self.uniform_weight * uniform,
            features=e["h1"],
            positives=e["h2"],
            projections=e["z1"],
            logs={"alignment": align.detach(), "uniformity": uniform.detach()},
        )
