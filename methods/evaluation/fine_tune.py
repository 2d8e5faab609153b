"""Fine-tuning: a pretrained backbone and a linear head, all weights trained with labels; or the same from scratch.

    python cli.py fit --config configs/eval/fine_tune.yaml --model.pretrained CHECKPOINT --data.path FOLDER

Layer-wise decay of the rate, Mixup, CutMix and label smoothing as in BEiT (arXiv:2106.08254) and MAE (arXiv:2111.06377,
appendix A.1); RandAugment is a recipe of views (`--data.views rand_augment`), stochastic depth an option of the
backbone. Deviation from those codes: Mixup and CutMix pair an image with its neighbour in the batch, not with the one
as far from the other end.
"""

from dataclasses import asdict
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.errors import UserError
from datamodules.randomness import fold, run_seed
from datamodules.views import Views
from methods.backbones import BackboneConfig, build_backbone
from methods.checks import check_run, check_views
from methods.clipping import clip_each
from methods.evaluation.accuracy import Accuracy
from methods.evaluation.layer_decay import decayed
from methods.evaluation.mixing import Mixing, mixing
from methods.layouts.own import images_of
from methods.modules import check_norm_choice, convert_norms
from methods.optim import OptimConfig
from methods.optimisation import optimisation
from methods.pretrained import load_backbone

_HEAD_STREAM = 0x48454144  # "HEAD": keeps its first weights apart from other uses of randomness


class FineTune(LightningModule):
    """Trains a backbone and a linear head on the labels; validates by top-1, top-5 and mean-per-class accuracy.

    Attributes:
        recipe: name of the view recipe that data modules take unless told otherwise.
        result: accuracies of the last validation, by name.
    """

    recipe = "crop_flip"
    num_global_views = 1

    def __init__(
        self,
        pretrained: str | None = None,
        part: Literal["backbone", "teacher"] = "backbone",
        backbone: BackboneConfig | None = None,
        optim: OptimConfig = OptimConfig(optimizer="adamw", lr=1e-3, weight_decay=0.05, warmup_epochs=5),
        layer_decay: float = 1.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        label_smoothing: float = 0.0,
        head_std: float = 0.01,
        batch_norm: str = "local",
    ) -> None:
        """
        Args:
            pretrained: checkpoint to start from, of this project or another (docs/checkpoints.md); null for training
                from scratch.
            part: its network, or the slow copy of it.
            backbone: the network; null for the checkpoint's own, needed from scratch. With a checkpoint it must take
                those weights, and may have other options, as {drop_path_rate: 0.1} of timm's ViTs.
            optim: optimiser and schedule.
            layer_decay: factor of the learning rate from one block to the one before it; 1 for one rate throughout
                (MAE: 0.65 for ViT-B).
            mixup: alpha of Mixup, 0 for none (MAE: 0.8).
            cutmix: alpha of CutMix, 0 for none (MAE: 1.0).
            label_smoothing: share of the target that goes to all classes alike (MAE: 0.1).
            head_std: standard deviation of the head's first weights (MAE: 2e-5).
            batch_norm: whose statistics BatchNorm takes: `local`, `sync`, `split:N` or `none`, as in pre-training; a
                network that was pretrained without any keeps `none`.
        """
        super().__init__()
        check_norm_choice(batch_norm)
        if not (0 < layer_decay <= 1 and 0 <= label_smoothing < 1 and min(mixup, cutmix, head_std) >= 0):
            raise UserError(
                f"FineTune: layer_decay={layer_decay} must be in (0, 1], label_smoothing={label_smoothing} in [0, 1), "
                f"mixup={mixup}, cutmix={cutmix} and head_std={head_std} at least 0."
            )
        self.save_hyperparameters()
        config = BackboneConfig(**backbone) if isinstance(backbone, dict) else backbone  # so from a checkpoint of ours
        self.optim = OptimConfig(**optim) if isinstance(optim, dict) else optim
        self.origin = "scratch"
        if pretrained:
            found = load_backbone(pretrained, part, config)
            self.backbone, config = found.backbone.requires_grad_(True).train(), found.config
            self.origin = f"{found.origin}, {part}"
            batch_norm = "none" if found.batch_norm == "none" else batch_norm
        elif config:
            self.backbone = build_backbone(config)
        else:
            raise UserError(
                "FineTune needs weights or a network: give --model.pretrained CHECKPOINT, or --model.backbone.name "
                "for training from scratch."
            )
        self.save_hyperparameters(  # plain data, for weights_only=True, and the network without the file it came from
            {"backbone": asdict(config), "optim": asdict(self.optim), "batch_norm": batch_norm}
        )
        self.feature_dim: int = self.backbone.feature_dim  # pyright: ignore[reportAttributeAccessIssue, reportAssignmentType]
        self.head: nn.Module = nn.Identity()  # until the number of classes is known
        self.batch_norm = batch_norm
        self.layer_decay, self.label_smoothing, self.head_std = layer_decay, label_smoothing, head_std
        self.mixup, self.cutmix = mixup, cutmix
        self.result: dict[str, float] = {}
        self.validated_epoch = 0
        self._mixing: Mixing | None = None

    def configure_model(self) -> None:
        """Gives the backbone the norm layers of this run; also when a checkpoint is loaded."""
        convert_norms(self.backbone, self.batch_norm)

    def setup(self, stage: str) -> None:
        """Checks images and labels, and makes the head for as many classes as there are."""
        check_run(self, self.backbone, self.batch_norm)
        data: Any = getattr(self.trainer, "datamodule", None)
        num_classes = getattr(data, "num_classes", None)
        if num_classes is None:
            raise UserError(
                f"Fine-tuning needs labels, and {type(data).__name__} has none (num_classes is None): name their "
                "column or folders, see --data.help."
            )
        labels: Tensor = getattr(data, "train_labels", torch.empty(0))
        unknown = int((labels < 0).sum())
        if stage == "fit" and unknown:
            raise UserError(
                f"{unknown} of {len(labels)} training images have no label: give --data.label_fraction 1.0 to train on "
                "the others alone."
            )
        self._make_head(num_classes)
        self.accuracy = Accuracy(num_classes)
        self._mixing = mixing(num_classes, self.mixup, self.cutmix)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes the head of the checkpoint's number of classes, outside a Trainer's run."""
        self._make_head(len(checkpoint["state_dict"]["head.weight"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds who trains the network, and on what, so that whoever judges it can prepare images alike."""
        checkpoint["method"] = type(self).__name__
        checkpoint["images"] = images_of(getattr(self.trainer, "datamodule", None))

    def _make_head(self, num_classes: int) -> None:
        if isinstance(self.head, nn.Identity):
            self.head = nn.Linear(self.feature_dim, num_classes)
            own = torch.Generator().manual_seed(fold(run_seed(), _HEAD_STREAM))  # whatever was drawn before
            nn.init.trunc_normal_(self.head.weight, std=self.head_std, generator=own)
            nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W]."""
        return self.head(self.backbone(images))

    def training_step(self, batch: Views, batch_idx: int) -> dict[str, Any]:
        """Cross-entropy with the labels, mixed and smoothed if asked for."""
        check_views(batch, type(self), self.num_global_views, takes_local_views=False)
        images, target = batch.global_views[0], batch.label
        if self._mixing:
            images, target = self._mixing(images, target)
        loss = F.cross_entropy(self(images).float(), target, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, batch_size=len(images))
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # pyright: ignore[reportAttributeAccessIssue]
            self.log("train/lr", max(group["lr"] for group in self.trainer.optimizers[0].param_groups))
        return {"loss": loss, "label": batch.label, "index": batch.index}

    def validation_step(self, batch: Views, batch_idx: int) -> dict[str, Tensor]:
        """Counts right answers on clean images; padding has no label."""
        self.accuracy.update(self(batch.global_views[0]), batch.label)
        return {"label": batch.label, "index": batch.index}

    def on_validation_epoch_end(self) -> None:
        """Logs the accuracies over all ranks."""
        self.result = {name: float(value) for name, value in self.accuracy.compute().items()}
        self.validated_epoch = self.current_epoch + 1
        self.accuracy.reset()
        self.log_dict({f"fine_tune/val_{name}": value for name, value in self.result.items()}, sync_dist=True)
        if self.trainer.state.fn == "validate":
            self.on_fit_end()

    def on_fit_end(self) -> None:
        """Says how well it went, and by what protocol."""
        if not self.result:
            rank_zero_info(
                "Fine-tuning: not measured, since no validation was due. See --trainer.check_val_every_n_epoch."
            )
        else:
            told = ", ".join(f"{name.replace('_', ' ')} {100 * value:.2f} %" for name, value in self.result.items())
            rank_zero_info(f"Fine-tuning: {told} ({self.protocol()}).")

    def protocol(self) -> str:
        """What stands behind the accuracies, to be printed with them."""
        data: Any = getattr(self.trainer, "datamodule", None)
        share = getattr(data, "label_fraction", None)
        images = "" if share is None else f" on {100 * share:g} % of the labels (draw {data.label_seed})"
        extras = {"layer decay": self.layer_decay, "mixup": self.mixup, "cutmix": self.cutmix}
        used = [f"{name} {value:g}" for name, value in extras.items() if value != (name == "layer decay")]
        used += [f"label smoothing {self.label_smoothing:g}"] if self.label_smoothing else []
        start = "from scratch" if self.origin == "scratch" else f"from {self.origin}"
        when = f"after {self.validated_epoch} of {self.trainer.max_epochs} epochs"
        judged = "held-out training" if getattr(data, "held_out", None) else "validation"
        return "; ".join([f"all weights, {start}{images}", *used, f"one clean view of the {judged} images, {when}"])

    def predict_step(self, batch: Views, batch_idx: int) -> Tensor:
        """Logits [B, K] of clean images."""
        return self(batch.global_views[0])

    def on_train_batch_start(self, batch: Views, batch_idx: int) -> None:
        """Makes this step's draws (Mixup, dropout) a function of its position: it can be repeated after a resume."""
        torch.manual_seed(fold(run_seed(), self.current_epoch, batch_idx, self.global_rank))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips each gradient by itself, if asked to."""
        if self.optim.clip_each is not None:
            clip_each(self.parameters(), self.optim.clip_each)

    def configure_optimizers(self) -> dict[str, Any]:
        """One group of weights and one of biases, norms and tokens, for each layer where the rate decays."""
        return optimisation(self, self.optim, decayed(self.optim.groups(self), self.backbone, self.layer_decay))
