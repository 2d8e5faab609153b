"""The smallest method with a teacher and a queue, to prove that the suites see both."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import unit_norm
from methods.modules import EMAPair, FeatureQueue, frozen_copy, mlp


class ToyMoCo(ContrastiveModule):
    """A query network, a slow key network, a queue of negatives."""

    def __init__(self, out_dim: int = 8, queue_size: int = 24, teacher_momentum: float = 0.9, **base: Any) -> None:
        """
        Args:
            out_dim: size of the embedding.
            queue_size: negatives.
            teacher_momentum: of the key network, at the start; ends at 1.
            base: arguments of the bases.
        """
        super().__init__(**base)
        self.projector = mlp(self.feature_dim, out_dim)
        self.key_backbone = frozen_copy(self.backbone)
        self.key_projector = frozen_copy(self.projector)
        self.queue = FeatureQueue(queue_size, out_dim)
        self.teacher_momentum = teacher_momentum

    def ema_pairs(self) -> list[EMAPair]:
        m = self.teacher_momentum
        return [
            EMAPair((self.backbone,), self.key_backbone, m, 1.0),
            EMAPair((self.projector,), self.key_projector, m, 1.0),
        ]

    def embed(self, views: Views) -> dict[str, Tensor]:
        x_q, x_k = views.global_views
        h = self.backbone(x_q)
        q = unit_norm(self.projector(h))
        with torch.no_grad():
            k = unit_norm(self.key_projector(self.key_backbone(x_k)))
        return {"h": h, "q": q, "k": k}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        e = embeddings
        positive = (e["q"] * e["k"]).sum(1, keepdim=True)
        logits = torch.cat([positive, e["q"] @ self.queue.keys.T], dim=1) / 0.2
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
        return StepOutput(loss, e["h"], enqueue={"queue": e["k"]}, logs={"positive": positive.detach().mean()})
