"""How well do nearest neighbours classify the features? The quickest honest measure of a representation."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from datamodules.errors import UserError
from datamodules.views import Views

Embed = Callable[[Tensor], Tensor]


class Bank:
    """Labelled features to find neighbours in, of which every rank holds a part.

    Queries travel to all ranks, each finds the nearest in its own part, and the lists are merged: no rank ever holds the whole
    bank, and memory is bounded by queries x part.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, all_gather: Callable[[Tensor], Tensor], world_size: int
    ) -> None:
        """
        Args:
            features: [N, D] this rank's features, of any norm.
            labels: [N] their classes; rows with -1 are left out.
            all_gather: [...] of every rank to [W, ...].
            world_size: W.
        """
        known = labels >= 0
        self.features = F.normalize(features[known].float(), dim=1)
        self.labels = labels[known]
        self._all_gather, self._world_size = all_gather, world_size

    def nearest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest of the whole bank by cosine.

        Args:
            queries: [Q, D] of this rank, the same Q on every rank.
            k: neighbours; fewer come back if the bank is smaller.

        Returns:
            Similarities [Q, k] in falling order, and labels [Q, k].
        """
        queries = F.normalize(queries.float(), dim=1)
        if self._world_size == 1:
            similarity, place = (queries @ self.features.T).topk(min(k, len(self.features)))
            return similarity, self.labels[place]
        W, Q = self._world_size, len(queries)
        rank_queries = self._all_gather(queries).reshape(W * Q, -1)
        similarity = torch.full((W * Q, k), -torch.inf, device=queries.device)
        labels = torch.zeros((W * Q, k), dtype=torch.int64, device=queries.device)
        own, place = (rank_queries @ self.features.T).topk(min(k, len(self.features)))
        similarity[:, : own.shape[1]], labels[:, : own.shape[1]] = own, self.labels[place]
        own_rows = slice(torch.distributed.get_rank() * Q, (torch.distributed.get_rank() + 1) * Q)
        similarity = (
            self._all_gather(similarity)[:, own_rows].movedim(0, 1).reshape(Q, W * k)
        )  # every rank's list for my queries
        labels = self._all_gather(labels)[:, own_rows].movedim(0, 1).reshape(Q, W * k)
        similarity, order = similarity.topk(k)
        return similarity, labels.gather(1, order)


def vote(similarity: Tensor, labels: Tensor, k: int, temperature: float, num_classes: int) -> Tensor:
    """Classes by the weighted vote of the first k neighbours.

    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, arXiv:1805.01978, section 3.4:
    neighbour i weighs exp(s_i / temperature).

    Args:
        similarity: [Q, K] cosines in falling order, K >= k (or the size of the bank).
        labels: [Q, K] classes of the neighbours.
        k: neighbours that vote.
        temperature: > 0.
        num_classes: C.

    Returns:
        [Q] int64 predicted classes.
    """
    similarity, labels = similarity[:, :k], labels[:, :k]
    weight = ((similarity - similarity[:, :1]) / temperature).exp()  # relative to the nearest: nothing overflows
    return torch.zeros(len(similarity), num_classes, device=weight.device).scatter_add_(1, labels, weight).argmax(1)


class KNNMonitor(Callback):
    """Weighted cosine kNN top-1 on the validation images, at every validation.

    The bank is either `train`, clean training images embedded by the current network (exact, a forward pass over the bank), or
    `recent`, the features of the last training batches (free, but augmented and slightly stale). Logs `knn/val_top1` for the first
    k and `knn/val_top1_k<k>` for the others; before training, once, the same for the untrained network (`knn/untrained_top1`) and
    the raw pixels (`knn/pixels_top1`), without which no accuracy can be judged. Off, with a word, where the data has no labels.
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
        self.recent: dict[str, Tensor] = {}
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
                f"KNNMonitor needs clean training images, which {type(data).__name__} does not offer (method clean_batches): set its "
                "argument bank to recent."
            )
        rank_zero_info(f"kNN protocol: {self.protocol()}.")

    def protocol(self) -> str:
        """What stands behind the numbers, to be printed with them."""
        what = "clean training images" if self.bank_kind == "train" else "recent augmented training features"
        return f"cosine, weighted by exp(s/{self.temperature:g}), k {', '.join(map(str, self.k))}, bank of up to {self.bank_size} {what}"

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
        was_training = pl_module.training
        pl_module.eval()
        self.baselines[f"{self.name}/pixels_top1"] = self._evaluate(
            trainer, pl_module, lambda x: x.flatten(1), raw=True
        )
        self.baselines[f"{self.name}/untrained_top1"] = self._evaluate(trainer, pl_module, pl_module)
        pl_module.train(was_training)

    @torch.no_grad()
    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, embed: Embed, raw: bool = False) -> float:
        """Top-1 for the first k of any embedding of the images (`raw`: not normalised), over the whole validation set."""
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
            keep = max(1, self.bank_size // trainer.world_size)
            for name, new in (("features", outputs["features"].float()), ("label", outputs["label"])):
                old = self.recent.get(name, new[:0]).to(new.device)
                self.recent[name] = torch.cat([old, new])[-keep:]

    @torch.no_grad()
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Builds the bank with the network as it is now."""
        self._bank = None
        if self.num_classes is None or trainer.sanity_checking:
            return
        if self.bank_kind == "train":
            self._bank = self._clean_bank(trainer, pl_module, pl_module)
        elif self.recent:
            self._bank = self._make_bank(self.recent["features"], self.recent["label"], trainer, pl_module)
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
            pl_module.log(f"{self.name}/val_top1" + (f"_k{k}" if place else ""), right[place, 0] / right[place, 1])
        for name, value in self.baselines.items():
            pl_module.log(name, value)
        self._bank = None  # a bank is as large as the data set: not kept between validations

    def state_dict(self) -> dict[str, Any]:
        """The baselines, and the recent features where they are the bank."""
        return {"baselines": self.baselines, "recent": self.recent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the baselines and recent features of the original run."""
        self.baselines, self.recent = state_dict["baselines"], state_dict["recent"]
