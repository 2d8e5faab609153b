"""ReLIC: tell images apart, and let the guess not depend on how the views were made.

Mitrovic et al., "Representation Learning via Invariant Causal Mechanisms", ICLR 2021, arXiv:2010.07922, eq. (3). The
authors published no pre-training code; checked against the equation, the schedules of google-deepmind/relicv2 (106a93e)
and the loss of filipbasara0/relic (a465a48). Where the paper leaves it open: means over images in place of sums, both
directions of the divergence, gradients through both of its arguments, a BatchNorm behind the critic's last layer too,
and the values of temperature and alpha.
"""

from typing import Any

from torch import Tensor, nn

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import unit_norm
from methods.losses.relic import relic
from methods.modules import EMAPair, Teacher, mlp


class ReLIC(ContrastiveModule):
    """ReLIC with a target network, or without."""

    recipe = "byol"
    num_global_views = 2

    def __init__(
        self,
        temperature: float = 0.3,
        alpha: float = 1.0,
        stop_gradient: bool = False,
        use_teacher: bool = True,
        hidden_dim: int = 4096,
        out_dim: int = 256,
        teacher_momentum: float = 0.996,
        **base: Any,
    ) -> None:
        """
        Args:
            temperature: softmax temperature (not in the paper). Near 1 all distributions are alike and the invariance
                has nothing to say.
            alpha: weight of the invariance (not in the paper).
            stop_gradient: no gradient through the first argument of the divergence.
            use_teacher: a target network, and BYOL's projector and predictor; otherwise a critic of four hidden layers,
                each half as wide as the one before, and gradients through both views.
            hidden_dim: width of the heads' (first) hidden layer.
            out_dim: size of the vectors that are compared (paper: 256 with a target network, 128 without).
            teacher_momentum: coefficient of the target's moving average at the start; it ends at 1.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if temperature <= 0 or alpha < 0 or hidden_dim < 8 or out_dim < 1:
            raise UserError(
                f"ReLIC: temperature={temperature} must be above 0, alpha={alpha} at least 0, hidden_dim={hidden_dim} "
                f"at least 8 and out_dim={out_dim} at least 1."
            )
        super().__init__(**base)
        self.temperature, self.alpha, self.stop_gradient = temperature, alpha, stop_gradient
        self.teacher_momentum = teacher_momentum
        if use_teacher:
            self.projector = mlp(self.feature_dim, hidden_dim, out_dim, bias=True, last_bias=False)
            self.predictor = mlp(out_dim, hidden_dim, out_dim, bias=True, last_bias=False)
            self.teacher = Teacher(self.backbone, self.projector)
        else:
            widths = [hidden_dim // divisor for divisor in (1, 2, 4, 8)]
            self.projector = mlp(self.feature_dim, *widths, out_dim, last_norm="affine")
            self.predictor = nn.Identity()
            self.teacher = None

    def ema_pairs(self) -> list[EMAPair]:
        """The target network follows backbone and projector; the predictor has no copy."""
        if self.teacher is None:
            return []
        return [EMAPair((self.backbone, self.projector), self.teacher, self.teacher_momentum, 1.0)]

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Each view in a pass of its own: BatchNorm must not mix the two."""
        x1, x2 = views.global_views
        h1, h2 = self.backbone(x1), self.backbone(x2)  # [B, D]
        o1, o2 = (unit_norm(self.predictor(self.projector(h))) for h in (h1, h2))  # [B, d]
        if self.teacher is None:
            t1, t2 = o1, o2
        else:
            t1, t2 = (unit_norm(self.teach(self.teacher, x)) for x in (x1, x2))
        return {"h1": h1, "h2": h2, "o1": o1, "o2": o2, "t1": t1, "t2": t2}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """The sums of both directions."""
        e = embeddings
        terms = relic(e["o1"], e["o2"], e["t1"], e["t2"], self.temperature, self.stop_gradient)
        contrast, invariance = terms.sum(dim=1)
        return StepOutput(
            contrast + self.alpha * invariance,
            features=e["h1"],
            positives=e["h2"],
            projections=e["o1"],
            logs={"contrast": contrast.detach(), "invariance": invariance.detach()},
        )
