"""Top-1, top-5 and mean-per-class accuracy over all ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Accuracy(Metric):
    """Counts right answers class by class; each image counts once, and those of no label (-1) not at all.

    The mean per class is taken over the classes that have images, and is what transfer tables with unequal classes
    report (Caltech-101); torchmetrics' own `macro` would count a class without images as wrong once it is guessed.

    Args:
        num_classes: K.
    """

    full_state_update = False
    right: Tensor
    right5: Tensor
    total: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        for name in ("right", "right5", "total"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: [B, K], the greater the likelier; -inf for a class that is no answer.
            label: [B] int64, -1 where unknown.
        """
        known = label >= 0
        highest, places = logits.topk(min(5, self.num_classes), dim=1)
        best = (places == label[:, None]) & (highest > -torch.inf)
        classes = label.clamp(min=0)
        for count, counted in ((self.right, best[:, 0]), (self.right5, best.any(1)), (self.total, known)):
            count.index_add_(0, classes, (counted & known).to(count.dtype))

    def compute(self) -> dict[str, Tensor]:
        """`top1`, `mean_per_class`, and `top5` where there are more than five classes; no labels, not a number."""
        images, seen = self.total.sum(), self.total > 0
        accuracy = {
            "top1": self.right.sum() / images,
            "mean_per_class": (self.right / self.total.clamp(min=1)).sum() / seen.sum(),
        }
        return accuracy | ({"top5": self.right5.sum() / images} if self.num_classes > 5 else {})
