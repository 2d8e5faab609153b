"""JigClu: pictures pasted from crops of different images; which crops belong together, and where was each of them?

Chen et al., "Jigsaw Clustering for Unsupervised Visual Representation Learning", CVPR 2021, arXiv:2104.00323. Follows
dvlab-research/JigsawClustering (1490f3b). Deviations: corner boxes are rounded to the nearest pixel; a clean image's
feature is the plain mean of its last map (the code resizes 7 x 7 to 8 x 8 first, as montages need it); the permutation
follows from seed, epoch and images (the code draws it on rank 0).
"""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from datamodules.views import Views
from methods.backbones import before_pooling
from methods.base import SSLModule, StepOutput
from methods.distributed import gather, rank
from methods.losses import unit_norm
from methods.losses.classification import cross_entropy
from methods.losses.supcon import supervised_contrast
from methods.modules import mlp
from methods.modules.patches import montage, pool_cells

BASE_TEMPERATURE = 0.07  # left over from SupCon in the authors' code; it sets the balance of the two losses


class JigClu(SSLModule):
    """JigClu on montages of the crops of all ranks: one pass of B pictures for B images.

    The four views are crops near the corners of an image, in the order of `montage`: top left, bottom left, top right,
    bottom right. For ResNets and `convnet`, which are not compiled here.
    """

    recipe = "jigclu"
    num_global_views = 4

    def __init__(self, temperature: float = 0.3, hidden_dim: int = 2048, out_dim: int = 128, **base: Any) -> None:
        """
        Args:
            temperature: softmax temperature of the clustering.
            hidden_dim: width of the projector's hidden layer.
            out_dim: size of the projection.
            base: arguments of `SSLModule`.
        """
        if temperature <= 0 or min(hidden_dim, out_dim) < 1:
            raise UserError(
                f"JigClu: temperature={temperature} must be above 0, hidden_dim={hidden_dim} and out_dim={out_dim} at "
                "least 1."
            )
        super().__init__(**base)
        before_pooling(self.backbone)  # refuses a network without a feature map
        self.temperature = temperature
        self.projector = mlp(self.feature_dim, hidden_dim, out_dim, norm=False, bias=True)
        self.locator = nn.Linear(self.feature_dim, 4)

    def step(self, views: Views) -> StepOutput:
        """Both losses of the crops in this rank's montages; candidates of the clustering are all ranks' crops."""
        B = len(views.index)
        own = slice(rank() * B, (rank() + 1) * B)
        crops = gather(torch.stack(views.global_views, dim=1))  # [N, 4, C, s, s], N = B * world size
        image, corner = self.deal(views.index)  # [N, 4]
        h = self.encode(montage(crops[image[own], corner[own]], 2))  # [B, 4, D]
        z = unit_norm(self.projector(h), dim=2)  # [B, 4, d]
        logits = self.locator(h)  # [B, 4, 4]
        siblings = image[own].flatten()[:, None] == image.flatten()  # [4B, 4N]
        cluster_loss = supervised_contrast(z.flatten(0, 1)[:, None], siblings, self.temperature, BASE_TEMPERATURE)
        location_loss = cross_entropy(logits.flatten(0, 1), corner[own].flatten())

        cells = (4 * image + corner).flatten().argsort().view(-1, 4)[own]  # [B, 4], where this rank's crops went
        h_own, z_own = (gather(x.detach()).flatten(0, 1)[cells] for x in (h, z))
        logs = {
            "cluster_loss": cluster_loss.detach(),
            "location_loss": location_loss.detach(),
            "location_accuracy": (logits.argmax(2) == corner[own]).float().mean(),
        }
        return StepOutput(cluster_loss + location_loss, h_own.mean(1), projections=z_own[:, 0], logs=logs)

    def deal(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Deals the 4N crops of all ranks out to N montages at random, alike on all ranks and on any number of them.

        Args:
            index: [B] int64, `Views.index` of this rank.

        Returns:
            For each cell of each montage [N, 4], down the columns, the image and the corner of the crop within it.
        """
        draws = gather(self.draw(index, stream=0, count=4))  # [N, 4]
        N = len(draws)
        order = draws.T.flatten().argsort(stable=True)  # of the crops, by corner and then image
        order = order.view(2, 2, N).permute(2, 1, 0).flatten(1)  # the authors fill the cells along the rows
        return order % N, order // N

    def encode(self, montages: Tensor) -> Tensor:
        """Features [B, 4, D] of the cells of montages [B, C, H, W], down the columns."""
        feature_map = before_pooling(self.backbone)(montages)
        h, w = feature_map.shape[2:]
        if min(h, w) < 2:
            raise UserError(
                f"JigClu: a montage of {montages.shape[2]} x {montages.shape[3]} pixels ends as a map of {h} x {w} in "
                "this backbone, too small to tell its four cells apart: set --model.backbone.small_images true, or a "
                "larger --data.image_size."
            )
        return pool_cells(feature_map, 2)
