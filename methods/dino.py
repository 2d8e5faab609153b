"""DINO: a student must make of any crop of an image what a slow copy of it makes of another, larger one.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.14294, algorithm 1.
Follows facebookresearch/dino (7c446df). Deviations: with accumulated batches the center moves once per optimiser step,
there there is no accumulation; the warm-up of the learning rate reaches its peak one step later; a ViT starts with
timm's weights (the class token at 1e-6, there 0.02), and one that is not plain (register tokens) interpolates its
positions in timm's way; what is watched in training is the student, while the published numbers are the teacher's, and
for linear probes of ViTs those of its last four blocks.
"""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from datamodules.views import Views
from methods.base import StepOutput
from methods.contrastive import ContrastiveModule
from methods.losses.dino import dino_loss, entropy, teacher_targets, warmed_up
from methods.modules import EMAPair, Teacher
from methods.modules.center import Center
from methods.modules.dino_head import DINOHead
from methods.modules.drop_path import without_drop_path
from methods.modules.vit import is_vit
from methods.multicrop import multi_crop


class DINO(ContrastiveModule):
    """DINO for ResNets and vision transformers, with any number of local views."""

    recipe = "dino"
    num_global_views = 2
    takes_local_views = True

    def __init__(
        self,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        teacher_temperature_start: float = 0.04,
        teacher_warmup_epochs: int = 0,
        center_momentum: float = 0.9,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        num_prototypes: int = 65536,
        norm_last_layer: bool = True,
        head_batch_norm: bool = False,
        freeze_last_layer_epochs: int = 1,
        teacher_momentum: float = 0.996,
        **base: Any,
    ) -> None:
        """
        Args:
            student_temperature: softmax temperature of the student.
            teacher_temperature: softmax temperature of the teacher after its warm-up; well below the student's, or all
                images end at the uniform distribution (paper: 0.04, in long runs 0.07 after a warm-up).
            teacher_temperature_start: the teacher's in epoch 0.
            teacher_warmup_epochs: epochs in which the teacher's temperature rises; 0 for none.
            center_momentum: coefficient of the running mean of the teacher's outputs.
            hidden_dim: width of the two hidden layers of the head.
            bottleneck_dim: size of the unit vectors in front of the prototypes.
            num_prototypes: size of the distributions (paper: 65536; less suits small data).
            norm_last_layer: prototypes of unit norm; safer, while free norms are a little better in long runs of ViTs.
            head_batch_norm: BatchNorm in the head, for convolutional networks.
            freeze_last_layer_epochs: epochs at the start in which the student's prototypes stay as they are.
            teacher_momentum: coefficient of the teacher's moving average at the start; it ends at 1.
            base: arguments of `ContrastiveModule` and `SSLModule`.
        """
        if min(student_temperature, teacher_temperature, teacher_temperature_start) <= 0:
            raise UserError(
                f"DINO: student_temperature={student_temperature}, teacher_temperature={teacher_temperature} and "
                f"teacher_temperature_start={teacher_temperature_start} must be above 0."
            )
        if not 0 <= center_momentum <= 1 or min(teacher_warmup_epochs, freeze_last_layer_epochs) < 0:
            raise UserError(
                f"DINO: center_momentum={center_momentum} must be from 0 to 1, teacher_warmup_epochs="
                f"{teacher_warmup_epochs} and freeze_last_layer_epochs={freeze_last_layer_epochs} at least 0."
            )
        if min(hidden_dim, bottleneck_dim, num_prototypes) < 1:
            raise UserError(
                f"DINO: hidden_dim={hidden_dim}, bottleneck_dim={bottleneck_dim} and num_prototypes={num_prototypes} "
                "must be at least 1."
            )
        super().__init__(**base)
        if is_vit(self.backbone):
            from methods.modules.positions import interpolate_as_dino  # imports timm, as this backbone has already

            interpolate_as_dino(self.backbone)
        self.student_temperature = student_temperature
        self.teacher_temperature = (teacher_temperature_start, teacher_temperature, teacher_warmup_epochs)
        self.projector = DINOHead(
            self.feature_dim, hidden_dim, bottleneck_dim, num_prototypes, norm_last_layer, head_batch_norm
        )
        self.freeze_last_layer_epochs = freeze_last_layer_epochs
        self.teacher = without_drop_path(Teacher(self.backbone, self.projector))
        self.teacher_momentum = teacher_momentum
        self.center = Center(num_prototypes, center_momentum)

    def ema_pairs(self) -> list[EMAPair]:
        """The teacher follows backbone and head."""
        return [EMAPair((self.backbone, self.projector), self.teacher, self.teacher_momentum, 1.0)]

    def param_groups(self) -> list[dict[str, Any]]:
        """All but biases and norms is decayed: class token and positions too, unlike the house's default."""
        weights, *rest = self.optim.groups(self)
        for group in rest:
            weights["params"] += [p for p in group["params"] if p.ndim > 1]
            group["params"] = [p for p in group["params"] if p.ndim <= 1]
        return [weights, *rest]

    def resting_parameters(self) -> list[nn.Parameter]:
        """The student's prototypes in the first epochs."""
        return (
            list(self.projector.last_layer.parameters()) if self.current_epoch < self.freeze_last_layer_epochs else []
        )

    def embed(self, views: Views) -> dict[str, Tensor]:
        """All crops through the student, the global ones through the teacher."""
        B = len(views.label)
        h = multi_crop(self.backbone, [*views.global_views, *views.local_views])  # [V * B, D], crop by crop
        s = self.projector(h).unflatten(0, (-1, B))  # [V, B, K]
        t = self.teach(self.teacher, torch.cat(views.global_views)).unflatten(0, (-1, B))  # [2, B, K]
        return {"h1": h[:B], "h2": h[B : 2 * B], "s": s.transpose(0, 1), "t": t.transpose(0, 1)}

    def contrast(self, embeddings: dict[str, Tensor]) -> StepOutput:
        """The student's distributions against the teacher's, which are centred and sharpened."""
        e, center = embeddings, self.center.at(self.global_step)
        targets = teacher_targets(e["t"], center, warmed_up(self.current_epoch, *self.teacher_temperature))
        loss, doubt = dino_loss(e["s"], targets, self.student_temperature), entropy(targets)
        return StepOutput(
            loss,
            features=e["h1"],
            positives=e["h2"],
            projections=(e["s"][:, 0].detach() / self.student_temperature).softmax(-1),
            enqueue={"center": e["t"].mean((0, 1), dtype=center.dtype)[None]},
            # Their sum is the loss. A teacher's entropy at 0 or ln K, with a divergence of 0, is a collapse.
            logs={"teacher_entropy": doubt, "divergence": loss.detach() - doubt},
        )
