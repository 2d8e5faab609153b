"""Losses that pull two views of an image together and need no negatives."""

import torch.nn.functional as F
from torch import Tensor

from methods.losses.precision import full_precision


@full_precision
def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Minus the cosine between predictions and targets.

    Chen, He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv:2011.10566, eq. (1). BYOL's
    squared distance of unit vectors is 2 + 2 times this value (Grill et al., 2020, arXiv:2006.07733, eq. (2)). The
    stop-gradient is the caller's: whatever the target is computed from gets a gradient unless it was detached.

    Args:
        prediction: [B, d], of any norm, with gradient.
        target: [B, d], of any norm; row i shows the same image as row i of `prediction`.

    Returns:
        Scalar mean over the local batch, in [-1, 1].
    """
    return -F.cosine_similarity(prediction, target, dim=1).mean()
