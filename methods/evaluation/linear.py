"""Linear evaluation on cached features: how much of the classes lies in directions of the representation?"""

from collections.abc import Sequence
from itertools import product
from statistics import mean, stdev
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from datamodules.augment import Augment, recipe
from datamodules.errors import UserError
from datamodules.randomness import run_seed
from datamodules.sources import hold_out
from datamodules.views import Views
from methods.backbones import BackboneConfig
from methods.evaluation.accuracy import Accuracy
from methods.evaluation.features import Images
from methods.evaluation.frozen import FrozenEval
from methods.evaluation.heads import Heads, train_heads
from methods.layouts.weights import Part

CHUNK = 4096  # images that are classified at once
COMMAND = "cli.py validate --config configs/eval/linear.yaml"  # has a flag for each setting, suites have none


class Choice(NamedTuple):
    """The pair of a grid that did best on the held-out images, and its accuracy there, as a fraction."""

    lr: float
    weight_decay: float
    accuracy: float


class LinearEval(FrozenEval):
    """Accuracy of a linear classifier on frozen features.

        python cli.py validate --config configs/eval/linear.yaml --model.pretrained CHECKPOINT --data.path FOLDER

    The features of the training images are computed once. All pairs of the grid are trained together on 90 % of them;
    the pair that classifies the other 10 % best (of equals: with the lowest cross-entropy) is trained anew on all of
    them, and alone sees the validation images, once. Each seed divides, orders and chooses for itself. Logs
    `linear/top1`, `linear/top5` and `linear/mean_per_class`, means over the seeds, and of several seeds the standard
    deviations, `linear/top1_std`.
    """

    def __init__(
        self,
        pretrained: str,
        part: Part = "backbone",
        backbone: BackboneConfig | None = None,
        lr: Sequence[float] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        weight_decay: Sequence[float] = (0.0, 1e-4, 1e-3, 1e-2, 1e-1),
        epochs: int = 100,
        batch_size: int = 256,
        held_out: float = 0.1,
        augmented_copies: int = 0,
        seeds: Sequence[int] = (0,),
        metric: Literal["top1", "mean_per_class"] = "top1",
    ) -> None:
        """
        Args:
            pretrained: checkpoint of this project or another (docs/checkpoints.md).
            part: the network that learned, or its slow copy.
            backbone: the network, for checkpoints that do not tell.
            lr: learning rates of the grid, for batches of `batch_size`; not scaled.
            weight_decay: weight decays of the grid.
            epochs: passes over the training images.
            batch_size: images in a step, over all ranks.
            held_out: share of each class to choose on.
            augmented_copies: versions of each training image to train on, cropped and flipped at random (recipe
                crop_flip); 0 for one clean view. Memory grows with it.
            seeds: of division and order; several give mean and standard deviation.
            metric: the accuracy to choose by.
        """
        super().__init__(pretrained, part, backbone)
        if not (lr and weight_decay and seeds and min(lr) > 0 and min(weight_decay) >= 0 and 0 < held_out < 1):
            raise UserError(
                f"LinearEval: lr={list(lr)} must be above 0, weight_decay={list(weight_decay)} at least 0, with one of "
                f"each and one of seeds={list(seeds)} at least, and held_out={held_out} between 0 and 1."
            )
        if min(epochs, batch_size) < 1 or augmented_copies < 0:
            raise UserError(
                f"LinearEval: epochs={epochs} and batch_size={batch_size} must be at least 1, augmented_copies="
                f"{augmented_copies} at least 0."
            )
        self.grid = list(product(lr, weight_decay))
        self.epochs, self.batch_size, self.held_out = epochs, batch_size, held_out
        self.augmented_copies, self.seeds, self.metric = augmented_copies, tuple(seeds), metric
        self.choices: list[Choice] = []

    def setup(self, stage: str) -> None:
        """Prepares one count for each seed."""
        super().setup(stage)
        self.accuracies = nn.ModuleList(Accuracy(self.num_classes) for _ in self.seeds)

    def protocol(self) -> str:
        """What stands behind the numbers."""
        chosen = ", ".join(f"{c.lr:g}/{c.weight_decay:g}" for c in self.choices)
        views = f"{self.augmented_copies} random crops and flips" if self.augmented_copies else "one clean view"
        return (
            f"linear classifier on frozen, standardised features of {views} of {self._images:,} training images, SGD, "
            f"{self.epochs} epochs; lr/weight decay {chosen} of {len(self.grid)} pairs chosen on {self.held_out:.0%} "
            f"of training, refitted on all of it; seed {', '.join(map(str, self.seeds))}"
        )

    def on_validation_epoch_start(self) -> None:
        """Chooses and trains the classifiers, on every rank the same ones from the features of all."""
        h, label = self._training_features()
        self._images = len(label)
        rank_zero_info(f"Training {len(self.grid)} linear classifiers at once on {h.shape[2]} features an image ...")
        self.choices = [self._choose(h, label, seed) for seed in self.seeds]
        chosen = zip(self.choices, self.seeds, strict=True)
        self._heads = [self._fit(h, label, [(choice.lr, choice.weight_decay)], seed) for choice, seed in chosen]

    def validation_step(self, batch: Views, batch_idx: int) -> dict[str, Tensor]:
        """Classifies a batch of validation images."""
        features = self(batch.global_views[0])
        for heads, accuracy in zip(self._heads, self.accuracies, strict=True):
            accuracy.update(heads(features)[0], batch.label)  # pyright: ignore[reportCallIssue]
        return self.seen(batch, features)

    def on_validation_epoch_end(self) -> None:
        """Logs the accuracies over all ranks."""
        runs = [{n: float(v) for n, v in a.compute().items()} for a in self.accuracies]  # pyright: ignore[reportCallIssue]
        for accuracy in self.accuracies:
            accuracy.reset()  # pyright: ignore[reportCallIssue]
        self.result = {name: mean(run[name] for run in runs) for name in runs[0]}
        if len(runs) > 1:
            self.result |= {f"{name}_std": stdev(run[name] for run in runs) for name in runs[0]}
        self.log_dict({f"linear/{name}": value for name, value in self.result.items()}, sync_dist=True)
        rank_zero_info(f"Linear top-1 {self.result['top1']:.2%} ({self.protocol()}).")
        self.hints = self._edges()
        for hint in self.hints:
            rank_zero_info(hint)

    def _training_features(self) -> tuple[Tensor, Tensor]:
        """[A, N, D] features of the labelled training images of all ranks, and their labels [N]."""
        copies = [{"raw": True, "images": self._crops(c)} for c in range(self.augmented_copies)] or [{}]
        found = [self.features("train", all_ranks=True, **options) for options in copies]
        known = found[0].label >= 0
        return torch.stack([version.h[known] for version in found]), found[0].label[known]

    def _crops(self, copy: int) -> Images:
        """Makes copy number `copy` of a batch of clean images, drawn by seed, number and position of the image."""
        augment = Augment(recipe("crop_flip", self.data.image_size), self.data.mean, self.data.std, run_seed())

        def crops(views: Views) -> Tensor:
            pixels = views.global_views[0].mul(255).round().to(torch.uint8)
            draws = augment.draw(copy, views.index.cpu(), (pixels.shape[2], pixels.shape[3]))
            (view,), _ = augment(pixels, move_data_to_device(draws, pixels.device))
            return self.trainer.precision_plugin.convert_input(view)

        return crops

    def _choose(self, h: Tensor, label: Tensor, seed: int) -> Choice:
        """The best of the grid by the held-out part."""
        fit, held = (torch.from_numpy(rows).to(h.device) for rows in hold_out(label.cpu(), self.held_out, seed))
        if not len(held):
            raise UserError(
                f"No class has enough of the {len(label)} training images for {self.held_out:.0%} to be held out: "
                f"raise it by {COMMAND} --model.held_out."
            )
        heads = self._fit(h[:, fit], label[fit], self.grid, seed)
        accuracy, loss = self._judge(heads, h[0, held], label[held])
        best = min(range(len(self.grid)), key=lambda g: (-accuracy[g], loss[g]))
        return Choice(*self.grid[best], accuracy[best])

    def _judge(self, heads: Heads, h: Tensor, label: Tensor) -> tuple[list[float], list[float]]:
        """Accuracy and summed cross-entropy of each of G classifiers; -1 and infinity of those that diverged."""
        loss = torch.zeros(heads.bias.shape[0], device=h.device)
        counts = [Accuracy(self.num_classes).to(h.device) for _ in loss]
        for rows in torch.arange(len(label), device=h.device).split(CHUNK):
            for g, logits in enumerate(heads(h[rows])):
                counts[g].update(logits, label[rows])
                loss[g] += F.cross_entropy(logits, label[rows], reduction="sum")
        for count in counts:
            count.sync_on_compute = False  # every rank has judged all images
        losses = loss.nan_to_num(nan=torch.inf, posinf=torch.inf).tolist()
        found = [float(count.compute()[self.metric]) for count in counts]
        return [-1.0 if loss == torch.inf else value for value, loss in zip(found, losses, strict=True)], losses

    def _fit(self, h: Tensor, label: Tensor, grid: list[tuple[float, float]], seed: int) -> Heads:
        lr, weight_decay = zip(*grid, strict=True)
        return train_heads(h, label, self.num_classes, lr, weight_decay, self.epochs, self.batch_size, seed)

    def _edges(self) -> list[str]:
        """A sentence for each end of the grid at which a choice lies: better values may lie beyond."""
        found = []
        for place, name in enumerate(("lr", "weight_decay")):
            values, chosen = {pair[place] for pair in self.grid}, {choice[place] for choice in self.choices}
            ends = ({max(values)} | ({min(values)} - {0.0})) & chosen if len(values) > 1 else set()
            found += [
                f"The chosen {name} {end:g} is at the end of its grid: widen it by {COMMAND} --model.{name}."
                for end in ends
            ]
        return found
