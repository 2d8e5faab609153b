"""BYOL: predict what a slow copy of the network makes of the other view; there are no negatives.

Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, arXiv:2006.07733, section 3. Follows
google-deepmind/deepmind-research (f5de0ed, `byol/`). Deviations: the target starts as a copy of the online network (the
code draws it anew; its comment says that a copy works as well); the linear classifier of that code is the house's
probe, with an optimiser of its own; running averages of BatchNorm are torch's.
"""

from typing import Any

from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import negative_cosine, unit_norm
from methods.losses.align_uniform import uniformity
from methods.modules import EMAPair, Teacher, mlp


class BYOL(ContrastiveModule):
    """BYOL with the loss of both directions, and a target network whose momentum rises to 1."""

    recipe = "byol"
    num_global_views = 2

    def __init__(
        self,
        hidden_dim: int = 4096,
        out_dim: int = 256,
        teacher_momentum: float = 0.996,
        uniformity_weight: float = 0.0,
        **base: Any,
    ) -> None:
        """
        Args:
            hidden_dim: width of the hidden layer of projector and predictor.
            out_dim: size of projection and prediction.
            teacher_momentum: coefficient tau of the target's moving average at the start (paper: 0.996 for 1000 epochs,
                0.99 for 100 and 300); it ends at 1.
            uniformity_weight: weight of a further term, not the paper's, that spreads the projections of each view over
                the sphere (Wang, Isola, arXiv:2005.10242); 0 for BYOL as published.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if min(hidden_dim, out_dim) < 1 or uniformity_weight < 0:
            raise UserError(
                f"BYOL: hidden_dim={hidden_dim} and out_dim={out_dim} must be at least 1, "
                f"uniformity_weight={uniformity_weight} at least 0."
            )
        super().__init__(**base)
        self.projector = mlp(self.feature_dim, hidden_dim, out_dim, bias=True, last_bias=False)
        self.predictor = mlp(out_dim, hidden_dim, out_dim, bias=True, last_bias=False)
        self.teacher = Teacher(self.backbone, self.projector)
        self.teacher_momentum = teacher_momentum
        self.uniformity_weight = uniformity_weight

    def ema_pairs(self) -> list[EMAPair]:
        """The target network follows backbone and projector; the predictor has no copy."""
        return [EMAPair((self.backbone, self.projector), self.teacher, self.teacher_momentum, 1.0)]

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Each view in a pass of its own: BatchNorm must not mix the two."""
        x1, x2 = views.global_views
        h1, h2 = self.backbone(x1), self.backbone(x2)  # [B, D]
        z1, z2 = self.projector(h1), self.projector(h2)  # [B, d]
        p1, p2 = self.predictor(z1), self.predictor(z2)
        t1, t2 = self.teach(self.teacher, x1), self.teach(self.teacher, x2)
        return {"h1": h1, "h2": h2, "z1": z1, "z2": z2, "p1": p1, "p2": p2, "t1": t1, "t2": t2}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """Squared distances of unit vectors, 2 - 2 cos, the sum of both directions: from 0 to 8; and uniformity."""
        e = embeddings
        loss = 4 + 2 * negative_cosine(e["p1"], e["t2"]) + 2 * negative_cosine(e["p2"], e["t1"])
        logs = {}
        if self.uniformity_weight:
            uniform = (uniformity(unit_norm(e["z1"])) + uniformity(unit_norm(e["z2"]))) / 2
            loss = loss + self.uniformity_weight * uniform
            logs["uniformity"] = uniform.detach()
        return StepOutput(loss, features=e["h1"], positives=e["h2"], projections=e["z1"], logs=logs)
