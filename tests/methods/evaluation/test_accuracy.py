"""Accuracies against plain counting."""

import torch

from methods.evaluation.accuracy import Accuracy


def test_top1_top5_and_mean_per_class():
    logits, label = torch.randn(200, 8), torch.randint(0, 7, (200,))  # nobody is of class 7, which is guessed
    label[:20] = -1
    metric = Accuracy(8)
    for rows in (slice(0, 64), slice(64, 150), slice(150, 200)):
        metric.update(logits[rows], label[rows])
    best, known = logits.topk(5, dim=1).indices, label >= 0
    right = (best[:, 0] == label)[known]
    per_class = [float(right[label[known] == c].float().mean()) for c in range(7)]
    found = metric.compute()
    assert found["top1"] == right.float().mean()
    assert found["top5"] == (best == label[:, None]).any(1)[known].float().mean()
    torch.testing.assert_close(float(found["mean_per_class"]), sum(per_class) / 7)
    assert abs(found["mean_per_class"] - found["top1"]) > 1e-4


def test_few_classes_have_no_top5_and_no_labels_no_accuracy():
    metric = Accuracy(3)
    metric.update(torch.randn(4, 3), torch.full((4,), -1))
    found = metric.compute()
    assert set(found) == {"top1", "mean_per_class"} and all(value.isnan() for value in found.values())
