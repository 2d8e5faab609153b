"""DetCo: momentum contrast at several depths of a network, of images, of sets of patches, and of patches with images.

Xie et al., "DetCo: Unsupervised Contrastive Learning for Object Detection", ICCV 2021, arXiv:2102.04803, section 3. The
authors published no code for pre-training (xieenze/DetCo, adf4947, has weights); what the paper leaves open follows
shuuchen/DetCo.pytorch (b4591b9). Deviations: no RandAugment of global views, as in that code; places and order of the
patches are drawn for each image (there for a batch); the hidden layers of local heads are as wide as their level (there
nine times that, which makes nine tenths of all parameters); the key encoder moves at the end of a step instead of the
start of the next (the same sequence of weights); the queues take a batch of any size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses import queue_nce
from methods.modules import EMAPair, FeatureQueue, frozen_copy
from methods.modules.jigsaw import NUMBERS, PATCHES, jigsaw
from methods.modules.levels import LevelHeads, level_features, tap_levels


def describe(backbone: nn.Module, heads: nn.Module, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Embeds images, given as P patches each, at every level; a level's vector is that of the patches in their order.

    Args:
        backbone: prepared by `tap_levels`.
        heads: `LevelHeads` for vectors of P * C_l.
        patches: [B, P, C, h, w]; P = 1 for whole images.

    Returns:
        Backbone features [B, P * D], and unit-norm embeddings [B, L, d].
    """
    P = patches.shape[1]
    levels = [level.unflatten(0, (-1, P)).flatten(1) for level in level_features(backbone, patches.flatten(0, 1))]
    return levels[-1], heads(levels)


class KeyEncoder(nn.Module):
    """The slow copies of backbone and heads."""

    def __init__(self, backbone: nn.Module, global_heads: nn.Module, local_heads: nn.Module) -> None:
        super().__init__()
        self.backbone = frozen_copy(backbone)
        self.global_heads = frozen_copy(global_heads)
        self.local_heads = frozen_copy(local_heads)

    def forward(self, patches: Tensor) -> Tensor:
        """[B, P, C, h, w] to [B, L, d]; whole images are patches with P = 1."""
        heads = self.global_heads if patches.shape[1] == 1 else self.local_heads
        return describe(self.backbone, heads, patches)[1]


class DetCo(ContrastiveModule):
    """DetCo for networks with levels: ResNets, `convnet`, or others with named parts."""

    recipe = "detco"
    takes_local_views = True
    num_global_views = 2

    def __init__(
        self,
        temperature: float = 0.2,
        level_weights: tuple[float, ...] = (0.1, 0.4, 0.7, 1.0),
        levels: list[str] | None = None,
        local_hidden_dim: int | None = None,
        out_dim: int = 128,
        queue_size: int = 65536,
        teacher_momentum: float = 0.999,
        **base: Any,
    ) -> None:
        """
        Args:
            temperature: softmax temperature.
            level_weights: weight of each level's three losses, from the first level to the last.
            levels: names of the parts of the backbone whose feature maps are the levels before the last, which is the
                backbone's own feature; null for the stages of a ResNet or the blocks of `convnet`.
            local_hidden_dim: width of the hidden layer of the heads for patches; null for that of their level, as in
                the heads for images.
            out_dim: size of queries and keys.
            queue_size: keys in each queue, the negatives; every level has one queue for images and one for patches.
            teacher_momentum: coefficient of the key encoder's moving average.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if temperature <= 0 or min(out_dim, queue_size) < 1 or (local_hidden_dim is not None and local_hidden_dim < 1):
            raise UserError(
                f"DetCo: temperature={temperature} must be above 0, out_dim={out_dim}, queue_size={queue_size} and "
                f"local_hidden_dim={local_hidden_dim} (or null) at least 1."
            )
        super().__init__(**base)
        dims = tap_levels(self.backbone, levels)
        if len(level_weights) != len(dims):
            raise UserError(
                f"DetCo: level_weights has {len(level_weights)} numbers for {len(dims)} levels (the backbone's feature "
                "is the last): give one for each."
            )
        self.temperature = temperature
        self.level_weights = level_weights
        self.global_heads = LevelHeads(dims, dims, out_dim)
        hidden_dims = dims if local_hidden_dim is None else [local_hidden_dim] * len(dims)
        self.local_heads = LevelHeads([PATCHES * dim for dim in dims], hidden_dims, out_dim)
        self.teacher = KeyEncoder(self.backbone, self.global_heads, self.local_heads)
        self.global_queues = nn.ModuleList(FeatureQueue(queue_size, out_dim) for _ in dims)
        self.local_queues = nn.ModuleList(FeatureQueue(queue_size, out_dim) for _ in dims)
        self.teacher_momentum = teacher_momentum

    def ema_pairs(self) -> list[EMAPair]:
        """The key encoder follows with a constant momentum."""
        students = (self.backbone, self.global_heads, self.local_heads)
        return [EMAPair(students, self.teacher, self.teacher_momentum, self.teacher_momentum)]

    def embed(self, views: Views) -> dict[str, Tensor]:
        """View 1 is the query, view 2 the key; the nine patches of an image go through the network side by side."""
        if len(views.local_views) != 2:
            raise UserError(
                f"DetCo takes 2 local views of an image, the recipe makes {len(views.local_views)}: choose another "
                "data.views, or leave it out for the method's own."
            )
        x_q, x_k = (x[:, None] for x in views.global_views)  # [B, 1, C, H, W]
        y_q, y_k = (jigsaw(y, self.draw(views.index, i, NUMBERS)) for i, y in enumerate(views.local_views))
        h, q = describe(self.backbone, self.global_heads, x_q)  # [B, D], [B, L, d]
        _, q_local = describe(self.backbone, self.local_heads, y_q)
        k, k_local = self.teach(self.teacher, x_k), self.teach(self.teacher, y_k)
        return {"h": h, "q": q, "q_local": q_local, "k": k, "k_local": k_local}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """Image to image, patches to patches, patches to image, against the queues as they were."""
        e, T = embeddings, self.temperature
        losses, enqueue = [], {}
        for level, weight in enumerate(self.level_weights):
            q, q_local, k, k_local = (e[name][:, level] for name in ("q", "q_local", "k", "k_local"))  # [B, d]
            queue, local_queue = self.global_queues[level].keys, self.local_queues[level].keys  # [K, d]
            within = queue_nce(q, k, queue, T) + queue_nce(q_local, k_local, local_queue, T)
            losses.append(weight * (within + queue_nce(q_local, k, queue, T)))
            enqueue |= {f"global_queues.{level}": k, f"local_queues.{level}": k_local}
        loss = torch.stack(losses).sum()
        return StepOutput(loss, features=e["h"], projections=e["q"][:, -1], enqueue=enqueue)
