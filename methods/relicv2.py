"""ReLICv2: ReLIC on large and small crops of images, some of which have lost their background.

Tomasev et al., "Pushing the limits of self-supervised ResNets: Can we outperform supervised learning without labels on
ImageNet?", 2022, arXiv:2201.05119, section 3 and its listing. The authors published evaluation code alone (google-
deepmind/relicv2, 106a93e), whose heads and target schedule these are; the term of a pair of views is checked against
filipbasara0/relic (a465a48). Where the sources leave it open: the divergence has its gradient stopped on the side of
the target as anchor, negatives are drawn without repetition, and the values of temperature, alpha, beta and the number
of negatives, two large and six small views with SwAV's areas. Each large view loses its background by a draw of its
own, small ones never (the listing as printed would leave it lost for all later views); the built-in masks need no
weights, the paper's a saliency network.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.distributed import world_size
from methods.losses import unit_norm
from methods.losses.relic import relic_v2, sample_negatives
from methods.modules import EMAPair, Teacher, mlp


class ReLICv2(ContrastiveModule):
    """ReLICv2 with any number of large views from two up, and any number of small ones."""

    recipe = "relicv2"
    takes_local_views = True

    def __init__(
        self,
        temperature: float = 0.3,
        alpha: float = 1.0,
        beta: float = 1.0,
        num_negatives: int | None = 10,
        pairs: Literal["all", "cross"] = "all",
        stop_gradient: bool = True,
        hidden_dim: int = 4096,
        out_dim: int = 256,
        teacher_momentum: float = 0.996,
        **base: Any,
    ) -> None:
        """
        Args:
            temperature: softmax temperature.
            alpha: weight of the contrast.
            beta: weight of the invariance.
            num_negatives: images that each image is told from, drawn anew for each pair of views; null for all other
                images of the global batch, which it also comes to where they are fewer.
            pairs: `all` online with all target views, as in the paper's listing; or `cross`, without those of a view
                with itself.
            stop_gradient: no gradient through the distribution whose anchor is the target.
            hidden_dim: width of the hidden layer of projector and predictor.
            out_dim: size of projection and prediction.
            teacher_momentum: coefficient of the target's moving average at the start; it ends at 1.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if temperature <= 0 or min(alpha, beta) < 0 or min(hidden_dim, out_dim) < 1:
            raise UserError(
                f"ReLICv2: temperature={temperature} must be above 0, alpha={alpha} and beta={beta} at least 0, "
                f"hidden_dim={hidden_dim} and out_dim={out_dim} at least 1."
            )
        if num_negatives is not None and num_negatives < 1:
            raise UserError(f"ReLICv2: num_negatives={num_negatives} must be at least 1, or null for all other images.")
        super().__init__(**base)
        self.temperature, self.alpha, self.beta = temperature, alpha, beta
        self.num_negatives, self.pairs, self.stop_gradient = num_negatives, pairs, stop_gradient
        self.projector = mlp(self.feature_dim, hidden_dim, out_dim, bias=True, last_bias=False)
        self.predictor = mlp(out_dim, hidden_dim, out_dim, bias=True, last_bias=False)
        self.teacher = Teacher(self.backbone, self.projector)
        self.teacher_momentum = teacher_momentum

    def ema_pairs(self) -> list[EMAPair]:
        """The target network follows backbone and projector; the predictor has no copy."""
        return [EMAPair((self.backbone, self.projector), self.teacher, self.teacher_momentum, 1.0)]

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Each large view in a pass of its own, all small ones in one: BatchNorm must not mix the two sizes."""
        large, small = views.global_views, views.local_views
        if len(large) < 2:
            raise UserError("ReLICv2 compares views of an image: its recipe needs at least 2 global views.")
        h = [self.backbone(x) for x in large]  # L of [B, D]
        o = [self.predict(features) for features in h]  # V of [B, d] in the end, the large views first
        if small:
            o += self.predict(self.backbone(torch.cat(small))).chunk(len(small))
        t = [unit_norm(self.teach(self.teacher, x)) for x in large]  # L of [B, d]
        return {"h1": h[0], "h2": h[1], "o": torch.stack(o, 1), "t": torch.stack(t, 1), "index": views.index}

    def predict(self, features: Tensor) -> Tensor:
        """[B, d] unit-norm predictions from backbone features [B, D]."""
        return unit_norm(self.predictor(self.projector(features)))

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """The mean over the pairs of an online and a target view."""
        e = embeddings
        negatives = self.negatives(e["index"], V=e["o"].shape[1], L=e["t"].shape[1])
        terms = relic_v2(e["o"], e["t"], self.temperature, negatives, self.stop_gradient)  # [2, V, L]
        weight = torch.ones_like(terms[0])
        if self.pairs == "cross":
            weight.fill_diagonal_(0)  # target j saw what online view j saw
        contrast, invariance = (terms * weight).sum((1, 2)) / weight.sum()
        return StepOutput(
            self.alpha * contrast + self.beta * invariance,
            features=e["h1"],
            positives=e["h2"],
            projections=e["o"][:, 0],
            logs={"contrast": contrast.detach(), "invariance": invariance.detach()},
        )

    def negatives(self, index: Tensor, V: int, L: int) -> Tensor | None:
        """[V, L, B, n] positions in the global batch of the images that each is told from; None for all others."""
        B = len(index)
        population, n = B * world_size(), self.num_negatives
        if n is None or n >= population - 1:
            return None
        uniforms = self.draw(index, stream=0, count=V * L * n).view(B, V, L, n)
        return sample_negatives(uniforms.permute(1, 2, 0, 3), population)
