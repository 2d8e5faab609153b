"""SwAV: predict from one crop of an image which cluster another crop belongs to, where all clusters are used alike.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020,
arXiv:2006.09882, section 3 and the listing of appendix A.1. Follows facebookresearch/swav (06b1b7c). Deviations:
prototypes are frozen for whole epochs instead of a number of steps; the queue has any size, enters the checkpoint, and
is the same on all ranks, which share its rows in the assignment (there each rank keeps its own part; the assignment is
the same); scores and assignment are always in fp32; the warm-up reaches its peak one step later; red is divided
by 0.229, there by 0.228.
"""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.distributed import rank, world_size
from methods.losses import unit_norm
from methods.losses.swav import perplexities, sinkhorn, swapped_prediction
from methods.modules import Ring, mlp
from methods.modules.prototypes import Prototypes
from methods.multicrop import multi_crop


class SwAV(ContrastiveModule):
    """SwAV with two global crops and any number of local ones, also none."""

    recipe = "swav"
    num_global_views = 2
    takes_local_views = True

    def __init__(
        self,
        num_prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        sinkhorn_iterations: int = 3,
        hidden_dim: int = 2048,
        out_dim: int = 128,
        queue_size: int = 0,
        queue_start_epoch: int = 0,
        freeze_prototypes_epochs: int = 1,
        **base: Any,
    ) -> None:
        """
        Args:
            num_prototypes: K, clusters.
            temperature: softmax temperature of the predictions.
            epsilon: sharpness of the assignments, smaller is sharper. A loss that stays at log(num_prototypes) is a
                collapse: try 0.03.
            sinkhorn_iterations: rounds of the assignment.
            hidden_dim: width of the projector's hidden layer.
            out_dim: size of projections and prototypes.
            queue_size: images of earlier batches that take part in the assignment, over all ranks, once there are so
                many; 0 for none. For batches well below the number of prototypes (paper: 3840 with batches of 256).
            queue_start_epoch: the queue is filled from this epoch on (paper: 15), when features no longer change fast.
            freeze_prototypes_epochs: epochs at the start in which the prototypes are not trained.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if min(temperature, epsilon) <= 0 or min(num_prototypes, sinkhorn_iterations, hidden_dim, out_dim) < 1:
            raise UserError(
                f"SwAV: temperature={temperature} and epsilon={epsilon} must be above 0, num_prototypes="
                f"{num_prototypes}, sinkhorn_iterations={sinkhorn_iterations}, hidden_dim={hidden_dim} and "
                f"out_dim={out_dim} at least 1."
            )
        if min(queue_size, queue_start_epoch, freeze_prototypes_epochs) < 0:
            raise UserError(
                f"SwAV: queue_size={queue_size}, queue_start_epoch={queue_start_epoch} and freeze_prototypes_epochs="
                f"{freeze_prototypes_epochs} must be at least 0."
            )
        super().__init__(**base)
        self.temperature, self.epsilon, self.sinkhorn_iterations = temperature, epsilon, sinkhorn_iterations
        self.projector = mlp(self.feature_dim, hidden_dim, out_dim, bias=True)
        self.prototypes = Prototypes(num_prototypes, out_dim)
        self.queue = Ring(torch.zeros(queue_size, 2, out_dim)) if queue_size else None  # both global crops of an image
        self.queue_start_epoch = queue_start_epoch
        self.freeze_prototypes_epochs = freeze_prototypes_epochs

    def resting_parameters(self) -> list[nn.Parameter]:
        """The prototypes, as long as they are frozen."""
        return list(self.prototypes.parameters()) if self.current_epoch < self.freeze_prototypes_epochs else []

    def embed(self, views: Views) -> dict[str, Tensor]:
        """Crops of one size go through the backbone together, all through the projector: BatchNorm sees them so."""
        B = len(views.label)
        h = multi_crop(self.backbone, [*views.global_views, *views.local_views])  # [V * B, D], crop by crop
        z = unit_norm(self.projector(h)).unflatten(0, (-1, B))  # [V, B, d]
        return {"h1": h[:B], "h2": h[B : 2 * B], "z": z.transpose(0, 1)}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """Codes of the two global crops, predicted from all crops but the one that they are of."""
        e = embeddings
        self.prototypes.normalize()
        scores = self.prototypes(e["z"])  # [B, V, K]
        codes = self.assign(scores[:, :2])  # [B, 2, K]
        used, used_by_one = perplexities(codes)
        B, filling = len(codes), self.current_epoch >= self.queue_start_epoch
        return StepOutput(
            swapped_prediction(scores, codes, self.temperature),
            features=e["h1"],
            positives=e["h2"],
            projections=e["z"][:, 0],
            enqueue={} if self.queue is None else {"queue": e["z"][: B if filling else 0, :2]},
            logs={"prototypes_used": used, "prototypes_per_image": used_by_one},
        )

    @torch.no_grad()
    def assign(self, scores: Tensor) -> Tensor:
        """Codes of the two global crops, balanced over the images of all ranks and of the queue once it is full.

        Args:
            scores: [B, 2, K] of this rank's images.

        Returns:
            [B, 2, K], rows sum to 1.
        """
        B = len(scores)
        if self.queue is not None and self.queue.full:
            share = self.queue.keys.tensor_split(world_size())[rank()]  # every rank holds all rows: each counts once
            scores = torch.cat([scores, self.prototypes(share)])
        return sinkhorn(scores, self.epsilon, self.sinkhorn_iterations)[:B]
