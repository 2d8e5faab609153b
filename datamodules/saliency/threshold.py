"""From a saliency map to the mask that is stored."""

import numpy as np
from PIL import Image

_LEVELS = 256
_USABLE = (0.01, 0.9)  # share of the foreground: below there is hardly any object, above hardly any background


def otsu(values: np.ndarray) -> float:
    """The threshold that parts values in [0, 1] into two classes of the largest variance between them.

    Otsu, "A threshold selection method from gray-level histograms", IEEE TSMC 1979. The values are taken in 256 equal
    bins. Where all are in one bin, the threshold is the largest of them: nothing is above it.
    """
    levels = (values * _LEVELS).astype(np.int64).clip(0, _LEVELS - 1)
    share = np.bincount(levels.ravel(), minlength=_LEVELS) / levels.size
    below = np.cumsum(share)[:-1]  # up to and including a level
    weighted = np.cumsum(share * np.arange(_LEVELS))
    apart = (weighted[-1] * below - weighted[:-1]) ** 2
    spread = below * (1 - below)
    between = np.divide(apart, spread, out=np.zeros_like(apart), where=spread > 1e-12)
    if between.max() <= 0:
        return float(values.max())
    return (int(between.argmax()) + 1) / _LEVELS


def to_mask(values: np.ndarray, side: int) -> np.ndarray:
    """The foreground as a small mask, by Otsu's threshold.

    Args:
        values: [H, W] in [0, 1], higher where the foreground is.
        side: of the mask, in pixels; the image's width and height are both squeezed into it.

    Returns:
        [side, side] bool. All true, which removes nothing, where the foreground would take less than 1 % or more than
        90 % of the image.
    """
    salient = (values >= otsu(values)).astype(np.float32)
    mask = np.asarray(Image.fromarray(salient).resize((side, side), Image.Resampling.BOX)) > 0.5
    low, high = _USABLE
    return mask if low <= mask.mean() <= high else np.ones_like(mask)
