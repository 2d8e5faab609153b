"""NNCLR: the positive of a view is the nearest neighbour, in a queue, of the other view.

Dwibedi et al., "With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations",
ICCV 2021, arXiv:2104.14548, algorithm 1. The authors published no code; checked against vturrisi/solo-learn (9187ea3).
Deviations from it: no biases in front of BatchNorm, where they have no effect.
"""

from typing import Any

from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import full_precision, info_nce, unit_norm
from methods.modules import FeatureQueue, LabelQueue, mlp


class NNCLR(ContrastiveModule):
    """NNCLR with the loss of both directions."""

    recipe = "simclr"
    num_global_views = 2

    def __init__(
        self,
        temperature: float = 0.1,
        hidden_dim: int = 2048,
        out_dim: int = 256,
        predictor_hidden_dim: int = 4096,
        queue_size: int = 98304,
        **base: Any,
    ) -> None:
        """
        Args:
            temperature: softmax temperature.
            hidden_dim: width of the projector's two hidden layers.
            out_dim: size of projection and prediction.
            predictor_hidden_dim: width of the predictor's hidden layer.
            queue_size: projections in the support set.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if temperature <= 0 or min(hidden_dim, out_dim, predictor_hidden_dim, queue_size) < 1:
            raise UserError(
                f"NNCLR: temperature={temperature} must be above 0, hidden_dim={hidden_dim}, out_dim={out_dim}, "
                f"predictor_hidden_dim={predictor_hidden_dim} and queue_size={queue_size} at least 1."
            )
        super().__init__(**base)
        self.temperature = temperature
        self.projector = mlp(self.feature_dim, hidden_dim, hidden_dim, out_dim, last_norm="affine")
        self.predictor = mlp(out_dim, predictor_hidden_dim, out_dim)
        self.queue = FeatureQueue(queue_size, out_dim)
        self.queue_labels = LabelQueue(queue_size)

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Each view in a pass of its own; a view learns through its prediction alone."""
        x1, x2 = views.global_views
        h1, h2 = self.backbone(x1), self.backbone(x2)  # [B, D]
        z1, z2 = self.projector(h1), self.projector(h2)  # [B, d]
        p1, p2 = unit_norm(self.predictor(z1)), unit_norm(self.predictor(z2))
        z1, z2 = unit_norm(z1).detach(), unit_norm(z2).detach()
        return {"h1": h1, "h2": h2, "z1": z1, "z2": z2, "p1": p1, "p2": p2, "label": views.label}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """Neighbours from the queue as it was; only the first view's projections enter it."""
        e = embeddings
        nearest1, nearest2 = self.nearest(e["z1"]), self.nearest(e["z2"])  # [B]
        nn1, nn2 = self.queue.keys[nearest1], self.queue.keys[nearest2]  # [B, d]
        loss = (info_nce(nn1, e["p2"], self.temperature) + info_nce(nn2, e["p1"], self.temperature)) / 2
        neighbour_label, label = self.queue_labels.keys[nearest1], e["label"]
        known = (neighbour_label >= 0) & (label >= 0)
        same_label = known & (neighbour_label == label)
        return StepOutput(
            loss,
            features=e["h1"],
            positives=e["h2"],
            projections=e["z1"],
            enqueue={"queue": e["z1"], "queue_labels": e["label"]},
            logs={"neighbour_same_label": same_label.sum() / known.sum()},  # NaN while no label is known
        )

    @full_precision  # near neighbours differ by less than bf16 can tell apart
    def nearest(self, z: Tensor) -> Tensor:
        """[B] positions in the queue of the rows with the largest cosine to z [B, d]."""
        return (z @ self.queue.keys.T.to(z.dtype)).argmax(dim=1)
