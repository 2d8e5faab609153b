"""The loss of methods that ask a question with a few possible answers."""

import torch.nn.functional as F
from torch import Tensor

from methods.losses.precision import full_precision


@full_precision
def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of a pretext task whose right answers are known without labels.

    Args:
        logits: [N, K] for K possible answers.
        label: [N] int64, the right ones.

    Returns:
        Scalar mean over the local rows, in nats; log K when all answers are alike.
    """
    return F.cross_entropy(logits, label)
