"""SimSiam: predict the other view's projection, which no gradient reaches; no negatives, no teacher.

Chen, He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv:2011.10566, algorithm 1. Follows
facebookresearch/simsiam (a7bc177). Deviations: none but those of the views.
"""

from typing import Any

from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import negative_cosine
from methods.modules import mlp


class SimSiam(ContrastiveModule):
    """SimSiam with the loss of both directions."""

    recipe = "moco_v2"
    num_global_views = 2

    def __init__(
        self,
        hidden_dim: int = 2048,
        out_dim: int = 2048,
        predictor_hidden_dim: int = 512,
        num_hidden_layers: int = 2,
        fixed_predictor_lr: bool = True,
        **base: Any,
    ) -> None:
        """
        Args:
            hidden_dim: width of the projector's hidden layers; the paper takes the width of the features.
            out_dim: size of projection and prediction.
            predictor_hidden_dim: width of the predictor's hidden layer, its bottleneck.
            num_hidden_layers: hidden layers of the projector: 2 in the paper, 1 for CIFAR-10.
            fixed_predictor_lr: the predictor keeps the initial learning rate, as for the authors' published model.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if min(hidden_dim, out_dim, predictor_hidden_dim) < 1 or num_hidden_layers < 0:
            raise UserError(
                f"SimSiam: hidden_dim={hidden_dim}, out_dim={out_dim} and predictor_hidden_dim={predictor_hidden_dim} "
                f"must be at least 1, num_hidden_layers={num_hidden_layers} at least 0."
            )
        super().__init__(**base)
        hidden = [hidden_dim] * num_hidden_layers
        self.projector = mlp(self.feature_dim, *hidden, out_dim, last_norm="plain", last_bias=True)
        self.projector[-2].bias.requires_grad_(False)  # frozen by the authors, since the BatchNorm takes it away
        self.predictor = mlp(out_dim, predictor_hidden_dim, out_dim)
        self.fixed_predictor_lr = fixed_predictor_lr

    def param_groups(self) -> list[dict[str, Any]]:
        """The predictor apart: it has to keep up with the projection, so its rate does not decay."""
        groups = self.optim.groups(self, without=(self.predictor,))
        return groups + self.optim.groups(self.predictor, name="predictor", fixed_lr=self.fixed_predictor_lr)

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Each view in a pass of its own: BatchNorm must not mix the two."""
        x1, x2 = views.global_views
        h1, h2 = self.backbone(x1), self.backbone(x2)  # [B, D]
        z1, z2 = self.projector(h1), self.projector(h2)  # [B, d]
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return {"h1": h1, "h2": h2, "z1": z1, "z2": z2, "p1": p1, "p2": p2}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """Half the sum of both directions; the stop-gradient is what keeps it from collapsing."""
        e = embeddings
        loss = (negative_cosine(e["p1"], e["z2"].detach()) + negative_cosine(e["p2"], e["z1"].detach())) / 2
        return StepOutput(loss, features=e["h1"], positives=e["h2"], projections=e["z1"])
