"""Fast-MoCo: every pair of cells of a view is a query of its own for the key of the whole other view.

Ci et al., "Fast-MoCo: Boost Momentum-based Contrastive Learning with Combinatorial Patches", ECCV 2022,
arXiv:2207.08220. Follows orashi/Fast-MoCo (d4fef97). Deviations: the teacher starts as a copy of the student (the code
draws it anew) and moves at the end of a step instead of within the next (the same sequence of weights); rows are
ordered by image instead of by cell; the learning rate's peak and zero come one step later. Weighted mean, maximum,
targets of the same view and montages are the paper's comparisons, for which there is no code.
"""

import re
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from datamodules.errors import UserError
from datamodules.views import Views
from methods.backbones import before_pooling, fixed_image_size
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import info_nce, unit_norm
from methods.modules import EMAPair, Teacher, mlp
from methods.modules.patches import combine, divide, montage, pool_cells, stagger


class FastMoCo(ContrastiveModule):
    """Fast-MoCo with the loss of both directions."""

    recipe = "fast_moco"
    num_global_views = 2

    def __init__(
        self,
        cells_per_side: int = 2,
        cells_per_query: int = 2,
        combine_by: Literal["mean", "max"] = "mean",
        gamma: float | None = None,
        target: Literal["other_view", "same_view"] = "other_view",
        encoding: Literal["cells", "montage"] = "cells",
        temperature: float = 1.0,
        hidden_dim: int = 2048,
        out_dim: int = 2048,
        predictor_hidden_dim: int = 512,
        teacher_momentum: float = 0.99,
        **base: Any,
    ) -> None:
        """
        Args:
            cells_per_side: m, a view is cut into m x m cells.
            cells_per_query: n, every n cells of a view make a query: 6 pairs with m = n = 2, 1 whole with m = n = 1.
            combine_by: the features of these cells become one by their mean, or by the maximum of each feature.
            gamma: for pairs, weight of the first cell in the mean; null for equal weights.
            target: whose key a query has to find: that of the other view, or that of its own, from which layout leaks.
            encoding: the backbone sees each cell alone, or montages, pictures of cells of different images of a rank's
                batch. In montages an image sees its neighbours across the seams, so ranks no longer add up exactly to
                one process; they are for ResNets and `convnet`, and are not compiled.
            temperature: softmax temperature.
            hidden_dim: width of the projector's two hidden layers.
            out_dim: size of queries and keys.
            predictor_hidden_dim: width of the predictor's hidden layer.
            teacher_momentum: coefficient of the teacher's moving average, constant.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if temperature <= 0 or min(hidden_dim, out_dim, predictor_hidden_dim) < 1:
            raise UserError(
                f"FastMoCo: temperature={temperature} must be above 0, hidden_dim={hidden_dim}, out_dim={out_dim} and "
                f"predictor_hidden_dim={predictor_hidden_dim} at least 1."
            )
        _check_combination(cells_per_side, cells_per_query, combine_by, gamma)
        super().__init__(**base)
        _check_encoding(self, encoding, cells_per_side)
        self.cells_per_side, self.cells_per_query = cells_per_side, cells_per_query
        self.combine_by: Literal["mean", "max"] = combine_by
        self.gamma = gamma
        self.target, self.encoding = target, encoding
        self.temperature = temperature
        widths = (self.feature_dim, hidden_dim, hidden_dim, out_dim)
        self.projector = mlp(*widths, bias=True, last_norm="affine", last_bias=True)
        self.predictor = mlp(out_dim, predictor_hidden_dim, out_dim, bias=True)
        for layer in nn.ModuleList([self.projector, self.predictor]).modules():
            if isinstance(layer, _BatchNorm):
                nn.init.uniform_(layer.weight)  # the authors' start, not at 1
        self.teacher = Teacher(self.backbone, self.projector)
        self.teacher_momentum = teacher_momentum

    def ema_pairs(self) -> list[EMAPair]:
        """The teacher follows backbone and projector with a constant momentum; the predictor has no copy."""
        m = self.teacher_momentum
        return [EMAPair((self.backbone, self.projector), self.teacher, m, m)]

    def param_groups(self) -> list[dict[str, Any]]:
        """The predictor keeps its initial learning rate, as SimSiam's does."""
        groups = self.optim.groups(self, without=(self.predictor,))
        return groups + self.optim.groups(self.predictor, fixed_lr=True, name="predictor")

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Queries see cells, keys whole views; each view in a pass of its own: BatchNorm must not mix the two.

        No whole view goes through the student, so the watchers get the mean of its cells' features.
        """
        x1, x2 = views.global_views
        h1, h2 = self.encode(x1), self.encode(x2)  # [B, M, D]
        q1, q2 = self.query(h1), self.query(h2)  # [B, S, d]
        k1, k2 = (unit_norm(self.teach(self.teacher, x)) for x in (x1, x2))  # [B, d]
        return {"h1": h1.mean(1), "h2": h2.mean(1), "q1": q1, "q2": q2, "k1": k1, "k2": k2}

    def encode(self, images: Tensor) -> Tensor:
        """Features [B, M, D] of the M = m * m cells of images [B, C, H, W], in one pass."""
        m = self.cells_per_side
        cells = divide(images, m)  # [B, M, C, H / m, W / m]
        if self.encoding == "cells":
            return _features(self.backbone, cells.flatten(0, 1)).unflatten(0, (-1, m * m))
        pictures = montage(stagger(cells, 1), m)  # [B, C, H, W]
        return stagger(pool_cells(before_pooling(self.backbone)(pictures), m), -1)

    def query(self, features: Tensor) -> Tensor:
        """Unit-norm queries [B, S, d] of the combinations of cells, from their features [B, M, D]."""
        c = combine(features, self.cells_per_query, self.combine_by, self.gamma)  # [B, S, D]
        q = self.predictor(self.projector(c.flatten(0, 1)))
        return unit_norm(q).unflatten(0, c.shape[:2])

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """The mean over all queries of both directions; cells of one image are never each other's negatives."""
        e, T = embeddings, self.temperature
        k1, k2 = (e["k2"], e["k1"]) if self.target == "other_view" else (e["k1"], e["k2"])
        q1, q2 = (e[name].transpose(0, 1).flatten(0, 1) for name in ("q1", "q2"))  # [S * B, d], blocks of the batch
        loss = (info_nce(q1, k1, T) + info_nce(q2, k2, T)) / 2
        return StepOutput(loss, features=e["h1"], positives=e["h2"], projections=e["q1"][:, 0])


def _check_combination(cells_per_side: int, cells_per_query: int, combine_by: str, gamma: float | None) -> None:
    if cells_per_side < 1 or not 1 <= cells_per_query <= cells_per_side**2:
        raise UserError(
            f"FastMoCo: cells_per_side={cells_per_side} must be at least 1, and cells_per_query={cells_per_query} from "
            "1 to its square, the number of cells."
        )
    if gamma is not None and not (0 <= gamma <= 1 and cells_per_query == 2 and combine_by == "mean"):
        raise UserError(
            f"FastMoCo: gamma={gamma} is a weight from 0 to 1 in the mean of two cells: leave it out, or set "
            "cells_per_query to 2 and combine_by to mean."
        )


def _check_encoding(module: ContrastiveModule, encoding: str, cells_per_side: int) -> None:
    if cells_per_side > 1 and fixed_image_size(module.backbone):
        raise UserError(
            f"FastMoCo cuts views into cells, and {type(module.backbone).__name__} takes images of one size only: "
            "choose a ResNet, or a ViT of timm's with --model.backbone.options '{dynamic_img_size: true}'."
        )
    if encoding == "montage":
        before_pooling(module.backbone)  # refuses a network without a feature map
        if module.micro_batch_size is not None:
            raise UserError(
                "FastMoCo: a montage holds cells of different images of the batch, which micro_batch_size would tear "
                "apart: set one of the two, micro_batch_size or encoding montage."
            )


def _features(network: nn.Module, cells: Tensor) -> Tensor:
    """Features [N, D] of cells [N, C, h, w]; a layer that runs out of pixels is answered with the flags behind it."""
    try:
        return network(cells)
    except (RuntimeError, AssertionError) as error:
        if not re.search("Output size is too small|greater than actual input size|divisible by patch size", str(error)):
            raise
        h, w = cells.shape[2:]
        raise UserError(
            f"The backbone {type(network).__name__} takes no cells of {h} x {w} pixels: set a smaller "
            "--model.cells_per_side, or a larger --data.image_size (and sizes in data.views, where they are spelled "
            "out)."
        ) from error
