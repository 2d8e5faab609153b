"""AdCo: MoCo's negatives become free vectors, which are trained to make the contrast harder while the encoder learns.

Hu et al., "AdCo: Adversarial Contrast for Efficient Learning of Unsupervised Representations from Self-Trained Negative
Adversaries", CVPR 2021, arXiv:2011.08435. Follows maple-research-lab/AdCo (fd65f12), which unlike the paper also takes
the other keys of the batch as negatives. Deviations: the steps that fill the negatives belong to the run and its
schedule, there they come before it; with multi-crop they take the same key as all other steps, there the smallest crop;
the key encoder moves at the end of a step instead of the start of the next (the same sequence of weights); positives
are found by the global rank, there by the rank within a machine.
"""

from typing import Any

import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.distributed import world_size
from methods.losses import info_nce, queue_nce, unit_norm
from methods.modules import EMAPair, Teacher, mlp
from methods.modules.negatives import TrainableNegatives, key_probability
from methods.optim import OptimConfig


class AdCo(ContrastiveModule):
    """AdCo with one query an image, with both directions, or with the local views as further queries (multi-crop)."""

    recipe = "moco_v2"
    takes_local_views = True
    num_global_views = 2

    def __init__(
        self,
        temperature: float = 0.12,
        adversary_temperature: float = 0.02,
        adversary_lr: float = 3.0,
        adversary_weight_decay: float = 1e-4,
        num_negatives: int = 65536,
        symmetric: bool = False,
        hidden_dim: int = 2048,
        out_dim: int = 128,
        teacher_momentum: float = 0.999,
        optim: OptimConfig = OptimConfig("sgd", 0.03, 1e-4, options={"momentum": 0.9}, decay_biases=True),
        **base: Any,
    ) -> None:
        """
        Args:
            temperature: softmax temperature of the encoder's loss.
            adversary_temperature: softmax temperature of the loss that the negatives raise.
            adversary_lr: learning rate of the negatives, constant whatever the batch.
            adversary_weight_decay: of the negatives.
            num_negatives: K; with 8192 the authors take temperatures of 0.14 and 0.03.
            symmetric: both views are query and key in turn.
            hidden_dim: width of the projector's hidden layer; the authors take the width of the features.
            out_dim: size of queries, keys and negatives.
            teacher_momentum: coefficient of the key encoder's moving average.
            optim: optimiser and schedule; `adversary_lr` is a rate for `sgd`, whose momentum the negatives share.
            base: further arguments of `ContrastiveModule` and `SSLModule`.
        """
        if min(temperature, adversary_temperature) <= 0 or min(adversary_lr, adversary_weight_decay) < 0:
            raise UserError(
                f"AdCo: temperature={temperature} and adversary_temperature={adversary_temperature} must be above 0, "
                f"adversary_lr={adversary_lr} and adversary_weight_decay={adversary_weight_decay} at least 0."
            )
        if min(num_negatives, hidden_dim, out_dim) < 1:
            raise UserError(
                f"AdCo: num_negatives={num_negatives}, hidden_dim={hidden_dim} and out_dim={out_dim} must be at least "
                "1."
            )
        super().__init__(optim=optim, **base)
        if self.optim.optimizer.lower() != "sgd":
            raise UserError(
                f"AdCo: optim.optimizer is {self.optim.optimizer!r}, and adversary_lr is a rate for sgd: set "
                "--model.optim.optimizer sgd."
            )
        self.temperature = temperature
        self.adversary_temperature = adversary_temperature
        self.adversary_lr = adversary_lr
        self.adversary_weight_decay = adversary_weight_decay
        self.symmetric = symmetric
        self.projector = mlp(self.feature_dim, hidden_dim, out_dim, norm=False, bias=True)
        self.teacher = Teacher(self.backbone, self.projector)
        self.teacher_momentum = teacher_momentum
        self.negatives = TrainableNegatives(num_negatives, out_dim)
        self.copy_teacher_at = -1  # optimiser steps done when the filling has ended; unknown before its last step

    def ema_pairs(self) -> list[EMAPair]:
        """The key encoder follows with a constant momentum; when the negatives are full, it is made a copy."""
        m = 0.0 if self.global_step == self.copy_teacher_at else self.teacher_momentum
        return [EMAPair((self.backbone, self.projector), self.teacher, m, m)]

    def param_groups(self) -> list[dict[str, Any]]:
        """The negatives ascend, at a rate of their own; their weight decay is part of what they maximise."""
        negatives = {"name": "negatives", "params": [self.negatives.weight], "lr": self.adversary_lr}
        rules = {"fixed_lr": True, "maximize": True, "weight_decay": 0.0}
        return [*self.optim.groups(self, without=(self.negatives,)), negatives | rules]

    def embed(self, views: Views) -> dict[str, Tensor]:
        """View 1 and what other queries there are, each in a pass of its own; view 2 is the key."""
        if self.symmetric and views.local_views:
            raise UserError(
                f"AdCo takes both directions or local views, not both, and there are {len(views.local_views)} local "
                "views: set --model.symmetric false, or a data.views without local ones."
            )
        x1, x2 = views.global_views
        others = [x2] if self.symmetric else views.local_views
        h = [self.backbone(x) for x in (x1, *others)]  # S queries an image, [B, D] each
        q = torch.stack([unit_norm(self.projector(h_s)) for h_s in h], dim=1)  # [B, S, d]
        sources = (x2, x1) if self.symmetric else (x2,)
        k = torch.stack([unit_norm(self.teach(self.teacher, x)) for x in sources], dim=1)  # [B, S or 1, d]
        embeddings = {"h1": h[0], "q": q, "k": k}
        return embeddings | {"h2": h[1]} if self.symmetric else embeddings

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """MoCo while the negatives are being filled, then the game of the two players."""
        return self.play(embeddings) if self.negatives.full else self.fill(embeddings)

    def fill(self, e: dict[str, Tensor]) -> StepOutput:
        """MoCo's loss of the first query, and its keys as the next negatives; those not yet filled are random."""
        q, k = e["q"][:, 0], e["k"][:, 0]
        loss = queue_nce(q, k, self.negatives().detach(), self.temperature)
        loss = loss + 0 * self.negatives.weight.sum()  # they rest, but DDP expects a gradient of every parameter
        if self.negatives.filled + len(k) * world_size() >= len(self.negatives.weight):
            self.copy_teacher_at = self.global_step + 1
        logs = {"negatives_filled": torch.tensor(self.negatives.filled / len(self.negatives.weight))}
        return StepOutput(loss, e["h1"], e.get("h2"), projections=q, enqueue={"negatives": k}, logs=logs)

    def play(self, e: dict[str, Tensor]) -> StepOutput:
        """The encoder descends its loss, the negatives ascend theirs, in one backward pass and one optimiser step."""
        q, k, W, T = e["q"], e["k"], self.negatives.weight, self.adversary_temperature
        negatives = self.negatives()  # [K, d], the directions of W
        loss = self.query_loss(q, k, negatives.detach(), self.temperature)
        adversary = self.query_loss(q.detach(), k, negatives, T) - self.adversary_weight_decay / 2 * W.square().sum()
        logs = {
            "adversary_key_probability": key_probability(q[:, 0], k[:, 0], negatives, T),
            "negatives_norm": W.detach().norm(dim=1).mean(),
        }
        loss = loss + (adversary - adversary.detach())  # the value stays the encoder's
        none = {"negatives": k[:0, 0]}
        return StepOutput(loss, e["h1"], e.get("h2"), projections=q[:, 0], enqueue=none, logs=logs)

    def query_loss(self, q: Tensor, k: Tensor, negatives: Tensor, temperature: float) -> Tensor:
        """The mean of the two directions, or the sum over the queries of an image.

        Args:
            q: [B, S, d] unit-norm.
            k: [B, S, d] or, with one key for all queries, [B, 1, d]; unit-norm.
            negatives: [K, d] unit-norm.
            temperature: softmax temperature, > 0.
        """
        pairs = zip(q.unbind(1), k.expand_as(q).unbind(1), strict=True)
        losses = torch.stack([info_nce(q_s, k_s, temperature, negatives) for q_s, k_s in pairs])
        return losses.mean() if self.symmetric else losses.sum()
