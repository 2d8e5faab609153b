"""SimCLR: two views of an image must find each other among all other views of the batch.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv:2002.05709,
algorithm 1. Follows google-research/simclr (383d414). Deviations: the loss is the paper's mean over all anchors, half
the value of that code; the run has floor(images / batch) steps an epoch, where that code spreads the rest over the
epochs.
"""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import nt_xent, unit_norm
from methods.modules import mlp


class SimCLR(ContrastiveModule):
    """SimCLR with NT-Xent over the global batch."""

    num_global_views = 2

    def __init__(
        self,
        temperature: float = 0.1,
        hidden_dim: int = 2048,
        out_dim: int = 128,
        num_hidden_layers: int = 1,
        **base: Any,
    ) -> None:
        """
        Args:
            temperature: softmax temperature (paper: 0.1 on ImageNet, 0.5 on CIFAR-10).
            hidden_dim: width of the projector; the paper takes the width of the features.
            out_dim: size of the projection.
            num_hidden_layers: hidden layers of the projector: 1 in the paper, 2 in SimCLR v2.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if temperature <= 0 or min(hidden_dim, out_dim) < 1 or num_hidden_layers < 0:
            raise UserError(
                f"SimCLR: temperature={temperature} must be above 0, hidden_dim={hidden_dim} and out_dim={out_dim} at "
                f"least 1, num_hidden_layers={num_hidden_layers} at least 0."
            )
        super().__init__(**base)
        self.temperature = temperature
        self.projector = mlp(self.feature_dim, *[hidden_dim] * num_hidden_layers, out_dim, last_norm="scale")
        for layer in self.projector:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Both views in one pass: BatchNorm's statistics mix them."""
        x = torch.cat(views.global_views)  # [2B, C, H, W]
        h1, h2 = self.backbone(x).chunk(2)  # [B, D] each
        z1, z2 = unit_norm(self.projector(torch.cat([h1, h2]))).chunk(2)  # [B, d] each
        return {"h1": h1, "h2": h2, "z1": z1, "z2": z2}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """NT-Xent, both directions."""
        e = embeddings
        loss = nt_xent(e["z1"], e["z2"], self.temperature)
        return StepOutput(loss, features=e["h1"], positives=e["h2"], projections=e["z1"])
