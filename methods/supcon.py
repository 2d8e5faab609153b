"""SupCon: the contrast of SimCLR where all views of all images of a class are each other's positives.

Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv:2004.11362, eq. (2). Follows
HobbitLong/SupContrast (66a8fe5). Deviations: labels and candidates come from all ranks (that code's loss runs on one
device); the cosine moves every step (there once an epoch), starts after the warm-up, and warms up to its peak; an image
without a label (-1) is in a class of its own, so that unlabelled data gives SimCLR.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.distributed import gather, rank
from methods.losses import unit_norm
from methods.losses.supcon import supervised_contrast
from methods.modules import mlp


class SupCon(ContrastiveModule):
    """Supervised contrast over the global batch; without labels that of SimCLR, as `images_of_a_class` of 1 tells."""

    recipe = "moco_v2"
    num_global_views = 2

    def __init__(
        self,
        temperature: float = 0.1,
        base_temperature: float = 0.07,
        contrast_mode: Literal["all", "one"] = "all",
        hidden_dim: int = 2048,
        out_dim: int = 128,
        **base: Any,
    ) -> None:
        """
        Args:
            temperature: softmax temperature.
            base_temperature: the loss is multiplied by temperature / base_temperature, which acts on the learning rate;
                the value of `temperature` for the plain loss.
            contrast_mode: `all` views are anchors, or `one`, the first.
            hidden_dim: width of the projector's hidden layer; the paper takes the width of the features.
            out_dim: size of the projection.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if min(temperature, base_temperature) <= 0 or min(hidden_dim, out_dim) < 1:
            raise UserError(
                f"SupCon: temperature={temperature} and base_temperature={base_temperature} must be above 0, "
                f"hidden_dim={hidden_dim} and out_dim={out_dim} at least 1."
            )
        if contrast_mode not in ("all", "one"):
            raise UserError(f"SupCon: contrast_mode={contrast_mode!r} is neither all nor one.")
        super().__init__(**base)
        self.temperature, self.base_temperature = temperature, base_temperature
        self.contrast_mode: Literal["all", "one"] = contrast_mode
        self.projector = mlp(self.feature_dim, hidden_dim, out_dim, norm=False, bias=True)

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Both views in one pass: BatchNorm's statistics mix them."""
        h1, h2 = self.backbone(torch.cat(views.global_views)).chunk(2)  # [B, D]
        z1, z2 = unit_norm(self.projector(torch.cat([h1, h2]))).chunk(2)  # [B, d]
        return {"h1": h1, "h2": h2, "z": torch.stack([z1, z2], dim=1), "label": views.label}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """Images with the same label are positives."""
        e = embeddings
        positives = self.same_class(e["label"])
        loss = supervised_contrast(e["z"], positives, self.temperature, self.base_temperature, self.contrast_mode)
        logs = {"images_of_a_class": positives.sum(1, dtype=torch.float32).mean()}
        return StepOutput(loss, features=e["h1"], positives=e["h2"], projections=e["z"][:, 0], logs=logs)

    def same_class(self, label: Tensor) -> Tensor:
        """[B, N] bool: image i of this rank and image j of the global batch share a label, or are the same image."""
        if label.ndim != 1:
            raise UserError(
                f"SupCon needs one class for each image, and this data's labels have the shape {list(label.shape)}: "
                "train on data with single labels, or with --model SimCLR."
            )
        everybody = gather(label)  # [N]
        own = torch.arange(len(label), device=label.device) + rank() * len(label)
        labelled = label[:, None] >= 0
        return ((label[:, None] == everybody) & labelled).scatter(1, own[:, None], True)
