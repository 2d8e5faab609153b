"""MoCo v3: momentum contrast without a queue; a query must find its key among the keys of the global batch.

Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.02057,
algorithm 1. Follows facebookresearch/moco-v3 (c349e6e). Deviations: the momentum encoder moves at the end of a step
instead of the start of the next (the same sequence of weights).
"""

from typing import Any, Literal

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import info_nce, unit_norm
from methods.modules import EMAPair, Teacher, mlp
from methods.modules.vit import is_vit, prepare_vit


class MoCoV3(ContrastiveModule):
    """MoCo v3 for ResNets and for vision transformers, with the loss of both directions."""

    recipe = "moco_v3"
    num_global_views = 2

    def __init__(
        self,
        temperature: float = 1.0,
        hidden_dim: int = 4096,
        out_dim: int = 256,
        teacher_momentum: float = 0.99,
        heads: Literal["auto", "resnet", "vit"] = "auto",
        freeze_patch_embedding: bool = True,
        **base: Any,
    ) -> None:
        """
        Args:
            temperature: softmax temperature (paper: 1 for ResNets, 0.2 for ViTs).
            hidden_dim: width of the hidden layers of projector and predictor.
            out_dim: size of queries and keys.
            teacher_momentum: coefficient of the momentum encoder's average at the start; it ends at 1.
            heads: the paper's heads for ResNets or for ViTs, which have a further layer in the projector and a
                BatchNorm behind the predictor; `auto` goes by the backbone, a ResNet or a ViT of timm's.
            freeze_patch_embedding: a ViT's patch embedding stays the random projection that it starts as, which keeps
                its training stable; no effect on other networks, or on a pretrained one.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if temperature <= 0 or min(hidden_dim, out_dim) < 1:
            raise UserError(
                f"MoCoV3: temperature={temperature} must be above 0, hidden_dim={hidden_dim} and out_dim={out_dim} at "
                "least 1."
            )
        super().__init__(**base)
        if is_vit(self.backbone):
            if not self.hparams["backbone"]["pretrained"]:
                prepare_vit(self.backbone, freeze_patch_embedding)
        elif heads == "auto" and not any(isinstance(layer, _BatchNorm) for layer in self.backbone.modules()):
            raise UserError(
                f"MoCoV3 knows ResNets and timm's ViTs, and {type(self.backbone).__name__} is neither: take a backbone "
                "such as timm/vit_small_patch16_224, or say with --model.heads resnet or vit which heads it gets."
            )
        vit = is_vit(self.backbone) if heads == "auto" else heads == "vit"
        hidden = [hidden_dim] * (2 if vit else 1)
        self.temperature = temperature
        self.projector = mlp(self.feature_dim, *hidden, out_dim, last_norm="plain")
        self.predictor = mlp(out_dim, hidden_dim, out_dim, last_norm="plain" if vit else "none", last_bias=False)
        self.teacher = Teacher(self.backbone, self.projector)
        self.teacher_momentum = teacher_momentum

    def ema_pairs(self) -> list[EMAPair]:
        """The momentum encoder follows backbone and projector; the predictor has no copy."""
        students = (self.backbone, self.projector)
        return [EMAPair(students, self.teacher, self.teacher_momentum, 1.0, before_forward=True)]

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Each view in a pass of its own: BatchNorm must not mix the two."""
        x1, x2 = views.global_views
        h1, h2 = self.backbone(x1), self.backbone(x2)  # [B, D]
        q1, q2 = (unit_norm(self.predictor(self.projector(h))) for h in (h1, h2))  # [B, d]
        k1, k2 = (unit_norm(self.teach(self.teacher, x)) for x in (x1, x2))
        return {"h1": h1, "h2": h2, "q1": q1, "q2": q2, "k1": k1, "k2": k2}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """The sum of both directions; times 2T, which keeps the gradient's size about independent of T."""
        e, T = embeddings, self.temperature
        loss = 2 * T * (info_nce(e["q1"], e["k2"], T) + info_nce(e["q2"], e["k1"], T))
        return StepOutput(loss, features=e["h1"], positives=e["h2"], projections=e["q1"])
