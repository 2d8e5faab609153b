"""DINO's projection head, also iBOT's and EsViT's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.losses.precision import unit_norm


class DINOHead(nn.Module):
    """Three linear maps with GELU between them, a unit-norm bottleneck, and a weight-normalised map to the prototypes.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.14294, appendix C.

    Args:
        in_dim: D, the size of the features.
        hidden_dim: width of the two hidden layers.
        bottleneck_dim: d, the size of the unit vectors that meet the prototypes.
        num_prototypes: K, the size of the output.
        norm_last_layer: the prototypes keep unit norm, so that the outputs are cosines; otherwise their norms learn.
        batch_norm: BatchNorm in the hidden layers.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        num_prototypes: int = 65536,
        norm_last_layer: bool = True,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (in_dim, hidden_dim):
            norm = [nn.BatchNorm1d(hidden_dim)] if batch_norm else []
            layers += [nn.Linear(width, hidden_dim), *norm, nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, bottleneck_dim))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, num_prototypes)
        self.last_layer.weight_g.requires_grad_(not norm_last_layer)

    def forward(self, features: Tensor) -> Tensor:
        """[N, D] to logits [N, K]."""
        return self.last_layer(unit_norm(self.mlp(features), dim=-1))


class WeightNormLinear(nn.Module):
    """Linear map without bias whose weight is a direction for each output times its length, which starts at 1.

    Salimans, Kingma, "Weight Normalization", NeurIPS 2016, arXiv:1602.07868, eq. (2). The names of the parameters are
    those of torch's hooks of old, which DINO's checkpoints have; a module of its own can be copied at any time, those
    cannot.

    Args:
        in_dim: d.
        out_dim: K.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1))
        self.weight_v = nn.Parameter(nn.Linear(in_dim, out_dim, bias=False).weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """[N, d] to [N, K]."""
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1))
