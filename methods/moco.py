"""MoCo: a query must find its key, which a slow copy of the network made, among a long queue of older keys.

v1: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, arXiv:1911.05722,
algorithm 1. v2: Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2020, arXiv:2003.04297. Follows
facebookresearch/moco (78b69ca). Deviations: the key encoder moves at the end of a step instead of the start of the next
(the same sequence of weights); the queue takes a batch of any size.
"""

from typing import Any

from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import queue_nce, unit_norm
from methods.modules import EMAPair, FeatureQueue, Teacher, mlp


class MoCo(ContrastiveModule):
    """MoCo v2; v1 with `mlp_head: false`, `temperature: 0.07` and the views `moco_v1`."""

    recipe = "moco_v2"
    num_global_views = 2

    def __init__(
        self,
        temperature: float = 0.2,
        mlp_head: bool = True,
        hidden_dim: int = 2048,
        out_dim: int = 128,
        queue_size: int = 65536,
        teacher_momentum: float = 0.999,
        **base: Any,
    ) -> None:
        """
        Args:
            temperature: softmax temperature (v1: 0.07, v2: 0.2).
            mlp_head: a hidden layer in the projector (v2); without it the projector is one linear map (v1).
            hidden_dim: width of that hidden layer; the paper takes the width of the features.
            out_dim: size of queries and keys.
            queue_size: keys in the queue, the negatives.
            teacher_momentum: coefficient of the key encoder's moving average.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if temperature <= 0 or min(hidden_dim, out_dim, queue_size) < 1:
            raise UserError(
                f"MoCo: temperature={temperature} must be above 0, hidden_dim={hidden_dim}, out_dim={out_dim} and "
                f"queue_size={queue_size} at least 1."
            )
        super().__init__(**base)
        self.temperature = temperature
        self.projector = mlp(self.feature_dim, *[hidden_dim] * mlp_head, out_dim, norm=False, bias=True)
        self.teacher = Teacher(self.backbone, self.projector)
        self.queue = FeatureQueue(queue_size, out_dim)
        self.teacher_momentum = teacher_momentum

    def ema_pairs(self) -> list[EMAPair]:
        """The key encoder follows with a constant momentum."""
        m = self.teacher_momentum
        return [EMAPair((self.backbone, self.projector), self.teacher, m, m)]

    def embed(self, views: Views) -> dict[str, Tensor]:
        """View 1 is the query, view 2 the key."""
        x_q, x_k = views.global_views
        h = self.backbone(x_q)  # [B, D]
        q = unit_norm(self.projector(h))  # [B, d]
        k = unit_norm(self.teach(self.teacher, x_k))
        return {"h": h, "q": q, "k": k}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """Against the queue as it was; the keys enter it after the step."""
        e = embeddings
        loss = queue_nce(e["q"], e["k"], self.queue.keys, self.temperature)
        return StepOutput(loss, features=e["h"], projections=e["q"], enqueue={"queue": e["k"]})
