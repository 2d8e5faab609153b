"""How well do nearest neighbours classify the features? The quickest honest measure of a representation."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from callbacks.neighbours import Bank, vote
from callbacks.rank_state import RankState
from datamodules.errors import UserError
from datamodules.views import Views

Embed = Callable[[Tensor], Tensor]


def pixels(images: Tensor) -> Tensor:
    """[B, C, H, W] as plain numbers [B, C * h * w]; above 32 px averaged down to 32 x 32 first, to bound the bank."""
    large = images.ndim == 4 and max(images.shape[2:]) > 32
    return (F.adaptive_avg_pool2d(images, 32) if large else images).flatten(1)


class KNNMonitor(RankState):
    """Weighted cosine kNN top-1 on the validation images, at every validation.

    The bank is either `train`, clean training images embedded by the current network (exact, a forward pass over the
    bank), or `recent`, the features of the last training batches (free, but augmented and slightly stale). Logs
    `knn/val_top1` for the first k and `knn/val_top1_k<k>` for the others; before training, once, the same for the
    untrained network (`knn/untrained_top1`) and the raw pixels (`knn/pixels_top1`), without which no accuracy can be
    judged. Off, with a word, where the data has no labels.
    """

    def __init__(
        self,
        k: Sequence[int] = (20,),
        temperature: float = 0.07,
        bank: Literal["train", "recent"] = "train",
        bank_size: int = 50_000,
        baselines: bool = True,
        name: str = "knn",
    ) -> None:
        """
        Args:
            k: numbers of neighbours, all in one pass.
            temperature: of the neighbours' weights.
            bank: which features to compare with.
            bank_size: images in the bank at most; of a larger training set a fixed random subset is taken.
            baselines: also measure the untrained network and the raw pixels before the first step (`train` bank only).
            name: prefix of the logged values; two monitors need two names.
        """
        if not k or min(k) < 1 or temperature <= 0 or bank_size < 1:
            raise UserError(
                f"KNNMonitor: k={list(k)} and bank_size={bank_size} must be >= 1, and temperature={temperature} > 0."
            )
        self.k, self.temperature, self.bank_kind, self.bank_size = tuple(k), temperature, bank, bank_size
        self.with_baselines, self.name = baselines, name
        self.baselines: dict[str, float] = {}
        self.recent: deque[tuple[Tensor, Tensor]] = deque()  # batches of features and labels, the oldest first
        self.num_classes: int | None = None
        self._bank: Bank | None = None

    @property
    def state_key(self) -> str:
        """Two monitors may live beside each other."""
        return f"KNNMonitor:{self.name}"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks that there are labels and, for the clean bank, a data module that offers them; prints the protocol."""
        data = getattr(trainer, "datamodule", None)
        self.num_classes = getattr(data, "num_classes", None)
        if self.num_classes is None:
            rank_zero_info("The data has no labels: the kNN monitor is off. Collapse metrics are shown all the same.")
            return
        if self.bank_kind == "train" and not hasattr(data, "clean_batches"):
            raise UserError(
                f"KNNMonitor needs clean training images, which {type(data).__name__} does not offer (method "
                "clean_batches): set its argument bank to recent."
            )
        self._share = max(1, self.bank_size // trainer.world_size)
        rank_zero_info(f"kNN protocol: {self.protocol()}.")

    def protocol(self) -> str:
        """What stands behind the numbers, to be printed with them."""
        what = "clean training images" if self.bank_kind == "train" else "recent augmented training features"
        ks = ", ".join(map(str, self.k))
        return f"cosine, weighted by exp(s/{self.temperature:g}), k {ks}, bank of up to {self.bank_size} {what}"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the two baselines before the first step; a resumed run remembers them."""
        if (
            self.num_classes is None
            or not self.with_baselines
            or self.bank_kind != "train"
            or self.baselines
            or trainer.global_step
        ):
            return
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        modes = {module: module.training for module in pl_module.modules()}  # some may be frozen in evaluation
        pl_module.eval()
        self.baselines[f"{self.name}/pixels_top1"] = self._evaluate(trainer, pl_module, pixels, raw=True)
        self.baselines[f"{self.name}/untrained_top1"] = self._evaluate(trainer, pl_module, pl_module)
        for module, mode in modes.items():
            module.training = mode

    @torch.no_grad()
    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, embed: Embed, raw: bool = False) -> float:
        """Top-1 for the first k of any embedding, over all validation images; `raw` ones are not normalised."""
        bank = self._clean_bank(trainer, pl_module, embed, raw)
        right = torch.zeros(2, device=pl_module.device)
        for views in trainer.datamodule.clean_batches("val", pl_module.device, raw=raw):  # pyright: ignore[reportAttributeAccessIssue]
            right += self._count(bank, self._embed(trainer, embed, views), views.label)[0]
        right = trainer.strategy.reduce(right, reduce_op="sum")
        return float(right[0] / right[1])  # pyright: ignore[reportIndexIssue]

    @staticmethod
    def _embed(trainer: Trainer, embed: Embed, views: Views) -> Tensor:
        with trainer.precision_plugin.val_step_context():
            return embed(trainer.precision_plugin.convert_input(views.global_views[0]))

    def _clean_bank(self, trainer: Trainer, pl_module: LightningModule, embed: Embed, raw: bool = False) -> Bank:
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        batches: Iterable[Views] = data.clean_batches("train", pl_module.device, max_images=self.bank_size, raw=raw)
        parts = [(self._embed(trainer, embed, views), views.label) for views in batches]
        return self._make_bank(
            torch.cat([h for h, _ in parts]), torch.cat([label for _, label in parts]), trainer, pl_module
        )

    @staticmethod
    def _make_bank(features: Tensor, labels: Tensor, trainer: Trainer, pl_module: LightningModule) -> Bank:
        return Bank(features, labels, pl_module.all_gather, trainer.world_size)  # pyright: ignore[reportArgumentType]

    def _count(self, bank: Bank, features: Tensor, label: Tensor) -> Tensor:
        """[len(k), 2]: right answers and labelled images."""
        assert self.num_classes is not None
        similarity, labels = bank.nearest(features, max(self.k))
        known = label >= 0
        right = [
            ((vote(similarity, labels, k, self.temperature, self.num_classes) == label) & known).sum() for k in self.k
        ]
        return torch.stack([torch.stack([r, known.sum()]) for r in right]).float()

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *_) -> None:
        """Keeps the newest features, if they are the bank."""
        if self.bank_kind == "recent" and self.num_classes is not None:
            self.recent.append((outputs["features"].float(), outputs["label"]))
            while sum(len(label) for _, label in self.recent) - len(self.recent[0][1]) >= self._share:
                self.recent.popleft()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation on its own knows no fit."""
        if trainer.state.fn == "validate":
            self.on_fit_start(trainer, pl_module)

    @torch.no_grad()
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Builds the bank with the network as it is now."""
        self._bank = None
        if self.num_classes is None or trainer.sanity_checking:
            return
        if self.bank_kind == "train":
            self._bank = self._clean_bank(trainer, pl_module, pl_module)
        elif self.recent:
            self._bank = self._make_bank(*self._recent(), trainer, pl_module)
        if self._bank is not None and len(self._bank.labels) * trainer.world_size < max(self.k):
            rank_zero_warn(f"The kNN bank holds fewer images than k = {max(self.k)}: all of them vote.")
        self._right = torch.zeros(len(self.k), 2, device=pl_module.device)

    @torch.no_grad()
    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *_) -> None:
        """Classifies this batch's images."""
        if self._bank is not None:
            self._right += self._count(self._bank, outputs["features"], outputs["label"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs top-1 over all ranks, and the baselines beside it."""
        if self._bank is None:
            return
        right: Tensor = trainer.strategy.reduce(self._right, reduce_op="sum")  # pyright: ignore[reportAssignmentType]
        for place, k in enumerate(self.k):
            name = f"{self.name}/val_top1" + (f"_k{k}" if place else "")
            pl_module.log(name, right[place, 0] / right[place, 1], sync_dist=True)
        for name, value in self.baselines.items():
            pl_module.log(name, value, sync_dist=True)
        self._bank = None  # a bank is as large as the data set: not kept between validations

    def _recent(self) -> tuple[Tensor, Tensor]:
        """This rank's share of the recent bank: features [N, D] and labels [N]."""
        features, labels = zip(*self.recent, strict=True)
        return torch.cat(features)[-self._share :], torch.cat(labels)[-self._share :]

    def state_dict(self) -> dict[str, Any]:
        """The baselines."""
        return {"baselines": self.baselines}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the baselines of the original run."""
        self.baselines = state_dict["baselines"]

    def rank_state(self) -> dict[str, Tensor]:
        """The recent features, where they are the bank."""
        return dict(zip(("features", "labels"), self._recent(), strict=True)) if self.recent else {}

    def load_rank_state(self, state: dict[str, Tensor]) -> None:
        """Takes up this rank's recent features."""
        self.recent = deque([(state["features"], state["labels"])])
