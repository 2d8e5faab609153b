"""Mixup and CutMix: images and labels of a batch blended with those of their neighbours, on the device."""

from collections.abc import Callable

from torch import Tensor
from torchvision.transforms import v2

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def mixing(num_classes: int, mixup: float, cutmix: float) -> Mixing | None:
    """Chooses for each batch between the two, as often the one as the other where both are on.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv:1710.09412; Yun et al., "CutMix", ICCV
    2019, arXiv:1905.04899. torchvision's: one coefficient a batch, each image with the one before it in the batch (its
    order is random), drawn from torch's global generator on the host, which is seeded anew at each step.

    Args:
        num_classes: K.
        mixup: alpha of Mixup's Beta(alpha, alpha), 0 for none.
        cutmix: alpha of CutMix's, 0 for none.

    Returns:
        A function from images [B, C, H, W] and labels [B] int64 to images and targets [B, K] that sum to 1; None where
        both are off.
    """
    kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    chosen = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
    if not chosen:
        return None
    return chosen[0] if len(chosen) == 1 else v2.RandomChoice(chosen)
