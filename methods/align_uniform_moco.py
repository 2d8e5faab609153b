"""MoCo with alignment and uniformity in place of its softmax: how the two terms were trained on ImageNet.

Wang, Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere",
ICML 2020, arXiv:2005.10242, section 5. Follows SsnL/moco (4d690c3, branch align_uniform). Deviations: MoCo's own, see
`methods.moco`; the pairs within the batch are those of the global batch, where that code takes each rank's; its
contrastive term, which has weight 0 by default, is left out.
"""

from typing import Any

from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import unit_norm
from methods.losses.align_uniform import alignment, uniformity
from methods.modules import EMAPair, FeatureQueue, Teacher, mlp


class AlignUniformMoCo(ContrastiveModule):
    """Queries aligned with their keys, and spread away from the queue and from each other."""

    recipe = "moco_v2"
    num_global_views = 2

    def __init__(
        self,
        align_weight: float = 3.0,
        uniform_weight: float = 1.0,
        alpha: float = 2.0,
        t: float = 3.0,
        in_batch: bool = True,
        hidden_dim: int = 2048,
        out_dim: int = 128,
        queue_size: int = 65536,
        teacher_momentum: float = 0.999,
        **base: Any,
    ) -> None:
        """
        Args:
            align_weight: weight of the alignment of a query with its key.
            uniform_weight: weight of the uniformity.
            alpha: power of the distance between query and key.
            t: sharpness of the Gaussian potential.
            in_batch: besides all pairs of a query and a queued key, those of two queries count.
            hidden_dim: width of the projector's hidden layer; the paper takes the width of the features.
            out_dim: size of queries and keys.
            queue_size: keys in the queue.
            teacher_momentum: coefficient of the key encoder's moving average.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if min(align_weight, uniform_weight) < 0 or alpha < 1 or t <= 0:
            raise UserError(
                f"AlignUniformMoCo: align_weight={align_weight} and uniform_weight={uniform_weight} must be at least "
                f"0, alpha={alpha} at least 1, t={t} above 0."
            )
        if min(hidden_dim, out_dim, queue_size) < 1:
            raise UserError(
                f"AlignUniformMoCo: hidden_dim={hidden_dim}, out_dim={out_dim} and queue_size={queue_size} must be at "
                "least 1."
            )
        super().__init__(**base)
        self.align_weight, self.uniform_weight = align_weight, uniform_weight
        self.alpha, self.t, self.in_batch = alpha, t, in_batch
        self.projector = mlp(self.feature_dim, hidden_dim, out_dim, norm=False, bias=True)
        self.teacher = Teacher(self.backbone, self.projector)
        self.queue = FeatureQueue(queue_size, out_dim)
        self.teacher_momentum = teacher_momentum

    def ema_pairs(self) -> list[EMAPair]:
        """The key encoder follows with a constant momentum."""
        m = self.teacher_momentum
        return [EMAPair((self.backbone, self.projector), self.teacher, m, m, before_forward=True)]

    def embed(self, views: Views) -> dict[str, Tensor]:
        """View 1 is the query, view 2 the key."""
        x_q, x_k = views.global_views
        h = self.backbone(x_q)  # [B, D]
        q = unit_norm(self.projector(h))  # [B, d]
        k = unit_norm(self.teach(self.teacher, x_k))
        return {"h": h, "q": q, "k": k}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """Away from the queue as it was; the keys enter it after the step."""
        e = embeddings
        align = alignment(e["q"], e["k"], self.alpha)
        uniform = uniformity(e["q"], self.t, self.queue.keys, self.in_batch)
        return StepOutput(
            self.align_weight * align + self.uniform_weight * uniform,
            features=e["h"],
            projections=e["q"],
            enqueue={"queue": e["k"]},
            logs={"alignment": align.detach(), "uniformity": uniform.detach()},
        )
