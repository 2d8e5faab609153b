"""Trainable directions that images are assigned to."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.losses.precision import full_precision


class Prototypes(nn.Linear):
    """K trainable directions [K, d], without bias.

    Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020,
    arXiv:2006.09882, section 3.1. The optimiser moves them freely; `normalize` brings them back to the unit sphere.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(dim, size, bias=False)

    @torch.no_grad()
    def normalize(self) -> None:
        """Gives every prototype unit norm, in place: call it in a step before the scores are taken."""
        self.weight.copy_(F.normalize(self.weight, dim=1))

    @full_precision  # the codes tell scores apart that differ by less than bf16 can hold
    def forward(self, z: Tensor) -> Tensor:
        """Scores [..., K] of unit-norm projections [..., d]: the cosines, once the prototypes have unit norm."""
        return F.linear(z, self.weight.to(z.dtype))  # of a 16-bit network too
