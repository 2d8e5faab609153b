"""What all methods share: the step's contract, the teacher and queue that go with it, and optimisation.

A subclass writes what its paper says: `step` (or, on `methods.contrastive`, `embed` and `contrast`). It may declare
`ema_pairs`, `param_groups` and `resting_parameters`.
"""

import abc
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacks.momentum import MomentumUpdate
from callbacks.queue import QueueUpdate
from datamodules.randomness import fold, run_seed, uniform
from datamodules.views import Views
from methods.backbones import BackboneConfig, build_backbone
from methods.checks import check_run, check_views
from methods.clipping import clip_each
from methods.configs import configs_of
from methods.declarations import check_groups, check_queues, check_teachers
from methods.layouts.own import images_of
from methods.modules import EMAPair, check_norm_choice, convert_norms, shuffled
from methods.optim import OptimConfig
from methods.optimisation import optimisation
from methods.output import StepOutput


class SSLModule(LightningModule, abc.ABC):
    """Base of every method: a backbone, one `step`, and the rest of the training step around it.

    Attributes:
        recipe: name of the paper's view recipe, which data modules take unless told otherwise.
        num_global_views: how many global views the method takes; None for any number.
        takes_local_views: whether it uses the small crops of a multi-crop recipe.
        feature_dim: D, the size of the backbone's features.
    """

    recipe: ClassVar[str] = "simclr"
    num_global_views: ClassVar[int | None] = None
    takes_local_views: ClassVar[bool] = False

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),
        optim: OptimConfig = OptimConfig(),
        batch_norm: str = "local",
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        """
        Args:
            backbone: the network that is trained.
            optim: optimiser and schedule.
            batch_norm: whose statistics BatchNorm takes: `local`, the images of its rank; `sync`, those of all ranks;
                `shuffle`, local ones, but teachers see the images of all ranks in another order (MoCo); `split:N`, N
                groups of the batch apart, as N devices that shuffle would; `none`, GroupNorm and weight-standardised
                convolutions instead, no statistics of the batch at all.
            compile: run the networks through torch.compile.
            channels_last: keep convolutions in channels-last layout, faster on recent accelerators.
        """
        super().__init__()
        check_norm_choice(batch_norm)
        self.save_hyperparameters()
        # A second time as plain data, for weights_only=True; hence dictionaries come back from checkpoints.
        plain = {k: asdict(v) if is_dataclass(v) else v for k, v in self.hparams.items()}  # pyright: ignore[reportArgumentType]
        self.save_hyperparameters(plain)
        self.optim = OptimConfig(**optim) if isinstance(optim, dict) else optim
        self.backbone = build_backbone(BackboneConfig(**backbone) if isinstance(backbone, dict) else backbone)
        self.feature_dim: int = self.backbone.feature_dim  # pyright: ignore[reportAttributeAccessIssue, reportAssignmentType]
        self.batch_norm = batch_norm
        self.compile_networks = compile
        self.channels_last = channels_last

    @abc.abstractmethod
    def step(self, views: Views) -> StepOutput:
        """The method: from a batch of views to a loss, as in the paper's pseudo-code."""

    def ema_pairs(self) -> list[EMAPair]:
        """Students and the teachers that follow them; `MomentumUpdate` moves these after each optimiser step."""
        return []

    def param_groups(self) -> list[dict[str, Any]]:
        """Torch parameter groups, with keys of our own: see `OptimConfig.build`."""
        return self.optim.groups(self)

    def networks(self) -> list[nn.Module]:
        """What the switch `compile` compiles, each as a whole."""
        return list(self.children())

    def resting_parameters(self) -> list[nn.Parameter]:
        """Parameters that sit the coming optimiser step out: no gradient, no decay, no momentum (SwAV's prototypes)."""
        return []

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, C, H, W], for evaluation."""
        return self.backbone(images)

    @torch.no_grad()
    def teach(self, teacher: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """What a teacher says, without gradient; with `shuffle` or `split:N` no query shares its key's statistics."""
        mixed = self.batch_norm.partition(":")[0] in ("shuffle", "split")
        return shuffled(teacher, images) if mixed else teacher(images)

    def draw(self, index: Tensor, stream: int, count: int) -> Tensor:
        """[B, count] uniform numbers in [0, 1) for the images `index` [B] in this epoch, on their device.

        The same on any number of ranks and after a resume, unlike the global generator's.

        Args:
            index: [B] int64, `Views.index`.
            stream: which use of randomness this is; different streams are independent.
            count: numbers for each image.
        """
        return uniform(run_seed(), self.current_epoch, index, stream, count)

    @property
    def progress(self) -> float:
        """How far training has come, from 0 to 1; stays 0 where training has no end."""
        total = self.trainer.estimated_stepping_batches
        return 0.0 if total == float("inf") else min(1.0, self.trainer.global_step / max(1, total))

    @final
    def training_step(self, batch: Views, batch_idx: int) -> dict[str, Any]:
        """Runs `step`, logs its scalars, and hands the watchers what they need without its graph."""
        check_views(batch, type(self), self.num_global_views, self.takes_local_views)
        output = self.step(batch)
        check_queues(type(self), self._queues, output.enqueue)
        self.log("train/loss", output.loss, batch_size=len(batch.label))
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # pyright: ignore[reportAttributeAccessIssue]
            # Not at every step: a number of the host's has to be copied to the device.
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=len(batch.label))
        self.log_dict({f"train/{name}": value for name, value in output.logs.items()}, batch_size=len(batch.label))
        return {
            "loss": output.loss,
            "features": output.features.detach(),
            "positives": None if output.positives is None else output.positives.detach(),
            "projections": None if output.projections is None else output.projections.detach(),
            "enqueue": {name: keys.detach() for name, keys in output.enqueue.items()},
            "label": batch.label,
            "index": batch.index,
        }

    @final
    def validation_step(self, batch: Views, batch_idx: int) -> dict[str, Tensor]:
        """One forward pass of clean images for all watchers."""
        return {"features": self(batch.global_views[0]), "label": batch.label, "index": batch.index}

    @final
    def predict_step(self, batch: Views, batch_idx: int) -> Tensor:
        """Features [B, D] of clean images."""
        return self(batch.global_views[0])

    @final
    def on_train_batch_start(self, batch: Views, batch_idx: int) -> None:
        """Makes this step's draws (masks, dropout) a function of its position: it can be repeated after a resume."""
        torch.manual_seed(fold(run_seed(), self.current_epoch, batch_idx, self.global_rank))

    @final
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Takes the gradients away that the method wants no step for; clips each of the others, if asked to."""
        for parameter in self.resting_parameters():
            parameter.grad = None
        if self.optim.clip_each is not None:
            clip_each(self.parameters(), self.optim.clip_each)

    @final
    def configure_model(self) -> None:
        """Gives all networks, teachers included, the norm layers of this run; also when a checkpoint is loaded."""
        convert_norms(self, self.batch_norm)

    @final
    def setup(self, stage: str) -> None:
        """Checks that images fit the network, and applies the layout and compilation switches."""
        check_run(self, self.backbone, self.batch_norm)
        if self.channels_last:
            self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.compile_networks:
            for network in self.networks():
                network.compile()
        # DDP would copy rank 0's queues over the others' before every forward pass; they are equal by construction.
        self._ddp_params_and_buffers_to_ignore = [
            f"{name}.{buffer}" for name in self._queues for buffer, _ in self.get_submodule(name).named_buffers()
        ]

    @final
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds who trains the networks, and on what, so that whoever judges them can prepare images alike."""
        checkpoint["method"] = type(self).__name__
        checkpoint["images"] = images_of(getattr(self.trainer, "datamodule", None))

    @final
    def on_fit_start(self) -> None:
        """Says in a line what is trained, after checking that no teacher is left behind."""
        check_teachers(self, self.ema_pairs())
        total, backbone = (
            sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6 for network in (self, self.backbone)
        )
        rank_zero_info(
            f"{type(self).__name__}: {total:.2f} M trainable parameters, {backbone:.2f} M of them in the backbone "
            f"({type(self.backbone).__name__}, {self.feature_dim} features)."
        )
        if self.optim == OptimConfig() and (configs := configs_of(type(self))):
            rank_zero_info(
                "No optimiser was chosen, so it is the default of all methods, which need not be "
                f"{type(self).__name__}'s own: see {', '.join(configs)}."
            )

    @final
    def configure_callbacks(self) -> list[Callback]:
        """Attaches what the method's declarations need, unless the Trainer already has one (also a subclass of it)."""
        needed: list[type[Callback]] = []
        if self.ema_pairs():
            needed.append(MomentumUpdate)
        if self._queues:
            needed.append(QueueUpdate)
        present = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        return [kind() for kind in needed if not any(isinstance(callback, kind) for callback in present)]

    @final
    def configure_optimizers(self) -> dict[str, Any]:
        """Builds optimiser and schedule from the global batch size and the length of the run."""
        groups = [group | {"params": list(group["params"])} for group in self.param_groups()]  # of iterators too
        check_groups(self, groups)
        return optimisation(self, self.optim, groups)

    @cached_property
    def _queues(self) -> list[str]:
        """Names of queues, and of negatives that are filled like one."""
        return [name for name, module in self.named_modules() if hasattr(module, "push")]
