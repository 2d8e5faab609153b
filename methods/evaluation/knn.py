"""Nearest neighbours in the training images: no parameter is fitted, so nothing hides a poor representation."""

import math
from collections.abc import Sequence

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from callbacks.knn import pixels
from callbacks.neighbours import Bank, votes
from datamodules.errors import UserError
from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.evaluation.accuracy import Accuracy
from methods.evaluation.features import Embed
from methods.evaluation.frozen import FrozenEval
from methods.layouts.weights import Part

SIMILARITIES = 2**26  # held at once, in all: 256 MiB


class KNNEval(FrozenEval):
    """Weighted cosine kNN accuracy, for every pair of k and temperature, in one pass over the images.

        python cli.py validate --config configs/eval/knn.yaml --model.pretrained CHECKPOINT --data.path FOLDER

    Wu et al., arXiv:1805.01978, section 3.4. The first k with the first temperature is the result, fixed beforehand;
    the others are there to be compared with tables that took them. Choosing the best of them would be a choice on the
    validation images. Logs `knn/top1`, `knn/top5` and `knn/mean_per_class` of the first pair, `knn/top1_k<k>_t<T>` of
    all, and the first pair's top-1 of raw pixels and of the untrained network, without which none can be judged.
    """

    def __init__(
        self,
        pretrained: str,
        part: Part = "backbone",
        backbone: BackboneConfig | None = None,
        k: Sequence[int] = (20, 1, 5, 10, 100, 200),
        temperature: Sequence[float] = (0.07, 0.1),
        bank_size: int | None = None,
        baselines: bool = True,
    ) -> None:
        """
        Args:
            pretrained: checkpoint of this project or another (docs/checkpoints.md).
            part: the network that learned, or its slow copy.
            backbone: the network, for checkpoints that do not tell.
            k: numbers of neighbours; those above the number of images in the bank are left out.
            temperature: of the neighbours' weights exp(s / T).
            bank_size: compare with a fixed random subset of the training images of this size; null for all.
            baselines: also measure raw pixels and the untrained network.
        """
        super().__init__(pretrained, part, backbone)
        if not k or min(k) < 1 or not temperature or min(temperature) <= 0 or (bank_size is not None and bank_size < 1):
            raise UserError(
                f"KNNEval: k={list(k)} and bank_size={bank_size} must be at least 1, and temperature="
                f"{list(temperature)} above 0, with one of each at least."
            )
        self.k, self.temperature = tuple(k), tuple(temperature)
        self.bank_size, self.baselines = bank_size, baselines

    def protocol(self) -> str:
        """What stands behind the numbers; known once the bank is made."""
        k, temperature = self.pairs[0]
        subset = "a fixed random subset of " if (self.bank_size or math.inf) < self.data.num_train_images else ""
        return (
            f"cosine kNN, k {k}, weighted by exp(s/{temperature:g}), fixed beforehand; bank: {subset}"
            f"{self._images:,} clean training images of {self.data.image_size} px, one view each"
        )

    def on_validation_epoch_start(self) -> None:
        """Embeds the training images, and prepares one count for each pair that has enough of them."""
        self._bank = self._bank_of(self.network)
        own = torch.tensor(len(self._bank.labels), device=self.device)  # with a label, and readable
        self._images = int(self.all_gather(own).sum())  # pyright: ignore[reportAttributeAccessIssue]
        if not self._images:
            raise UserError(
                "kNN: no image of the bank can be read and has a label; give other data or a larger bank_size."
            )
        ks = tuple(k for k in self.k if k <= self._images) or (self._images,)
        self.pairs = [(k, t) for t in self.temperature for k in ks]
        self.accuracies = nn.ModuleList(Accuracy(self.num_classes) for _ in self.pairs).to(self.device)

    def validation_step(self, batch: Views, batch_idx: int) -> dict[str, Tensor]:
        """Classifies a batch of validation images."""
        features = self(batch.global_views[0])
        self._classify(self._bank, features, batch.label, self.pairs, list(self.accuracies))
        return self.seen(batch, features)

    def on_validation_epoch_end(self) -> None:
        """Logs the accuracies over all ranks, then those of the baselines."""
        del self._bank
        counted = [accuracy.compute() for accuracy in self.accuracies]  # pyright: ignore[reportCallIssue]
        for accuracy in self.accuracies:
            accuracy.reset()  # pyright: ignore[reportCallIssue]
        found = dict(counted[0])
        found |= {f"top1_k{k}_t{t:g}": one["top1"] for (k, t), one in zip(self.pairs, counted, strict=True)}
        if self.baselines:
            found["pixels_top1"] = self._baseline(pixels, raw=True)
            found["untrained_top1"] = self._baseline(self.untrained())
        self.result = {name: float(value) for name, value in found.items()}
        self.log_dict({f"knn/{name}": value for name, value in self.result.items()}, sync_dist=True)
        rank_zero_info(f"kNN top-1 {self.result['top1']:.2%} ({self.protocol()}).")

    def _bank_of(self, network: Embed, raw: bool = False) -> Bank:
        found = self.features("train", network, max_images=self.bank_size, raw=raw)
        return Bank(found.h, found.label, self.all_gather, self.trainer.world_size)  # pyright: ignore[reportArgumentType]

    def _classify(
        self, bank: Bank, features: Tensor, label: Tensor, pairs: list[tuple[int, float]], accuracies: list
    ) -> None:
        """Counts what the neighbours get right, as many images at once as memory allows, on all ranks alike."""
        most = max(k for k, _ in pairs)
        with torch.autocast(self.device.type, enabled=False):  # bf16 does not tell close neighbours apart
            for rows in torch.arange(len(label), device=label.device).split(max(1, SIMILARITIES // self._images)):
                similarity, labels = bank.nearest(features[rows], most)
                for (k, temperature), accuracy in zip(pairs, accuracies, strict=True):
                    weight = votes(similarity, labels, k, temperature, self.num_classes)
                    # A class that no neighbour is of is no answer, also where fewer than five classes are.
                    accuracy.update(weight.masked_fill(weight == 0, -torch.inf), label[rows])

    def _baseline(self, network: Embed, raw: bool = False) -> Tensor:
        """Top-1 of another embedding for the first pair, over all ranks."""
        bank, accuracy = self._bank_of(network, raw), Accuracy(self.num_classes).to(self.device)
        for views in self.data.clean_batches("val", self.device, raw=raw):
            with self.trainer.precision_plugin.val_step_context():
                h = network(views.global_views[0])
            self._classify(bank, h, views.label, self.pairs[:1], [accuracy])
        return accuracy.compute()["top1"]
