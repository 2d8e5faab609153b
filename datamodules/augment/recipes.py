"""The augmentations of the papers, as lists of `ViewSpec`.

Each recipe has its ImageNet form and a form for views of 64 pixels and less. In the latter the blur goes (a kernel of a
tenth of 32 pixels hardly blurs, and the CIFAR-10 recipes leave it out), SimCLR and SwAV halve their colour jitter
(SimCLR's appendix B.9), and the local crops of SwAV and DINO cover 10 to 40 % of the image: a smaller share of a CIFAR
image is less than 10 x 10 pixels (our choice, no paper's).

Differences from the official codes, throughout: crops are drawn as torchvision draws them (SimCLR's own sampler never
goes below 10 % of the area, BYOL's clips the sides instead of drawing again), brightness is multiplicative (SimCLR v1
and BYOL add), the blur is a true Gaussian (MoCo, SwAV and DINO use PIL's approximation), and grayscale follows the
jitter (MoCo v1 has it first).
"""

import difflib
from collections.abc import Callable
from dataclasses import replace

from datamodules.augment.spec import ViewSpec
from datamodules.errors import UserError

SMALL_IMAGE = 64
"""Views of this many pixels and less take the small-image form."""


def recipe(name: str, size: int) -> list[ViewSpec]:
    """The recipe of a paper for views of `size` pixels.

    Args:
        name: a key of `RECIPES`, such as `simclr`.
        size: side of the global views in pixels; decides between the ImageNet and the small-image form.

    Returns:
        The specifications, global views first.

    Raises:
        UserError: no recipe has this name.
    """
    if name not in RECIPES:
        nearest = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise UserError(f"There is no recipe {name!r}; there are {', '.join(RECIPES)}.{hint}")
    return RECIPES[name](size)


def local_size(size: int) -> int:
    """Side in pixels of the local crops beside global views of `size`.

    The papers' proportion, 96 to 224, rounded so that the usual patches divide it: to a multiple of 8 for small images
    (16 at 32, 24 at 64), of 16 otherwise (48 at 128, 96 at 224).
    """
    multiple = 8 if size <= SMALL_IMAGE else 16
    return multiple * max(1, round(size * 96 / 224 / multiple))


def jigsaw_size(size: int) -> int:
    """Side in pixels of a local view that is cut into 3 x 3 cells, beside global views of `size`.

    PIRL's proportion, 255 to 224, in whole cells; for small images the largest such side within the image (30 at 32).
    """
    return 3 * (size // 3) if size <= SMALL_IMAGE else 3 * round(size * 85 / 224)


def _colour(view: ViewSpec, strength: tuple[float, float, float, float], jitter: float = 0.8) -> ViewSpec:
    """The view with colour jitter (brightness, contrast, saturation, hue) and a grayscale probability of 0.2."""
    brightness, contrast, saturation, hue = strength
    return replace(
        view,
        jitter=jitter,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        grayscale=0.2,
    )


def _blur(view: ViewSpec, size: int, probability: float) -> ViewSpec:
    """The view with blur, unless the recipe is for small images; local crops get the kernel of the global views."""
    if size <= SMALL_IMAGE:
        return view
    return replace(view, blur=probability, blur_kernel=ViewSpec(size=size).kernel)


def _simclr_strength(size: int) -> tuple[float, float, float, float]:
    """SimCLR's strength 1 on ImageNet, 0.5 on small images (brightness, contrast, saturation, hue)."""
    return (0.4, 0.4, 0.4, 0.1) if size <= SMALL_IMAGE else (0.8, 0.8, 0.8, 0.2)


def simclr(size: int) -> list[ViewSpec]:
    """Two views of SimCLR (Chen et al., arXiv:2002.05709, appendix A)."""
    view = ViewSpec(count=2, size=size)
    return [_blur(_colour(view, _simclr_strength(size)), size, 0.5)]


def moco_v1(size: int) -> list[ViewSpec]:
    """Two views of MoCo v1 (He et al., arXiv:1911.05722): jitter always, no blur."""
    view = ViewSpec(count=2, size=size, crop_scale=(0.2, 1.0), interpolation="bilinear")
    return [_colour(view, (0.4, 0.4, 0.4, 0.4), jitter=1.0)]


def moco_v2(size: int) -> list[ViewSpec]:
    """Two views of MoCo v2 (Chen et al., arXiv:2003.04297); also SimSiam's."""
    view = ViewSpec(count=2, size=size, crop_scale=(0.2, 1.0), interpolation="bilinear")
    return [_blur(_colour(view, (0.4, 0.4, 0.4, 0.1)), size, 0.5)]


def moco_v3(size: int) -> list[ViewSpec]:
    """Two asymmetric views of MoCo v3 (Chen et al., arXiv:2104.02057) for ViTs."""
    return [replace(view, interpolation="bilinear") for view in byol(size)]


def moco_v3_resnet(size: int) -> list[ViewSpec]:
    """MoCo v3's views for ResNets: no crop below 20 % of the area."""
    return [replace(view, crop_scale=(0.2, 1.0)) for view in moco_v3(size)]


def fast_moco(size: int) -> list[ViewSpec]:
    """Two views of Fast-MoCo (Ci et al., arXiv:2207.08220): MoCo v2's, with the bicubic filter of its official code."""
    return [replace(view, interpolation="bicubic") for view in moco_v2(size)]


def byol(size: int) -> list[ViewSpec]:
    """Two asymmetric views of BYOL (Grill et al., arXiv:2006.07733, appendix B); also Barlow Twins' and ReLIC's."""
    view = _colour(ViewSpec(size=size), (0.4, 0.4, 0.2, 0.1))
    return [_blur(view, size, 1.0), replace(_blur(view, size, 0.1), solarize=0.2)]


def swav(size: int) -> list[ViewSpec]:
    """Two global and six local views of SwAV (Caron et al., arXiv:2006.09882)."""
    local_scale = (0.1, 0.4) if size <= SMALL_IMAGE else (0.05, 0.14)
    large = ViewSpec(count=2, size=size, crop_scale=(0.14, 1.0), interpolation="bilinear")
    small = replace(large, count=6, size=local_size(size), crop_scale=local_scale, role="local")
    return [_blur(_colour(view, _simclr_strength(size)), size, 0.5) for view in (large, small)]


def dino(size: int) -> list[ViewSpec]:
    """Two asymmetric global and eight local views of DINO (Caron et al., arXiv:2104.14294)."""
    local_scale = (0.1, 0.4) if size <= SMALL_IMAGE else (0.05, 0.4)
    view = _colour(ViewSpec(size=size, crop_scale=(0.4, 1.0)), (0.4, 0.4, 0.2, 0.1))
    small = replace(view, count=8, size=local_size(size), crop_scale=local_scale, role="local")
    return [
        _blur(view, size, 1.0),
        replace(_blur(view, size, 0.1), solarize=0.2),
        _blur(small, size, 0.5),
    ]


def relicv2(size: int) -> list[ViewSpec]:
    """Two large and six small views of ReLICv2 (Tomasev et al., arXiv:2201.05119), which needs foreground masks.

    Colours are those of the official evaluation code (BYOL's), sizes and areas SwAV's. Which of BYOL's two blurs a
    small view gets is not published: ours get the first.
    """
    local_scale = (0.1, 0.4) if size <= SMALL_IMAGE else (0.05, 0.14)
    view = _colour(ViewSpec(size=size, crop_scale=(0.14, 1.0)), (0.4, 0.4, 0.2, 0.1))
    large = replace(view, background_removal=0.1)
    small = replace(view, count=6, size=local_size(size), crop_scale=local_scale, role="local")
    return [_blur(large, size, 1.0), replace(_blur(large, size, 0.1), solarize=0.2), _blur(small, size, 1.0)]


def relicv2_no_masks(size: int) -> list[ViewSpec]:
    """ReLICv2's views with the background left in, for data without masks."""
    return [replace(view, background_removal=0.0) for view in relicv2(size)]


def detco(size: int) -> list[ViewSpec]:
    """Two global views of MoCo v2 and two local ones to cut into 3 x 3 cells, DetCo (Xie et al., arXiv:2102.04803).

    The local views are PIRL's: at least 60 % of the area, 255 pixels beside 224. The paper's RandAugment of the global
    views is left out, as in the one public reimplementation.
    """
    (large,) = moco_v2(size)
    small = replace(large, size=jigsaw_size(size), crop_scale=(0.6, 1.0), grayscale=0.0, role="local")
    return [large, small]


def jigclu(size: int) -> list[ViewSpec]:
    """Four views of half the size for the montages of JigClu (Chen et al., arXiv:2104.00323), one near each corner.

    Each is cropped anew from a box of 80 % of each side in a corner of the image: top left, bottom left, top right,
    bottom right.
    """
    whole = ViewSpec(size=max(1, size // 2), crop_scale=(0.2, 1.0), interpolation="bilinear")
    view = _blur(_colour(whole, (0.4, 0.4, 0.4, 0.1)), size, 0.5)
    return [replace(view, region=(y, x, y + 0.8, x + 0.8)) for x in (0.0, 0.2) for y in (0.0, 0.2)]


def mae(size: int) -> list[ViewSpec]:
    """One view of MAE (He et al., arXiv:2111.06377, appendix A.1): crop and flip alone."""
    return [ViewSpec(size=size, crop_scale=(0.2, 1.0))]


def rotation(size: int) -> list[ViewSpec]:
    """One upright view for rotation prediction (Gidaris et al., arXiv:1803.07728); the method turns it.

    Small images are shifted by up to an eighth of their side in the official code, over a black border. A crop of at
    least 75 % of the area shows as much of them, and no border.
    """
    return [ViewSpec(size=size, crop_scale=(0.75 if size <= SMALL_IMAGE else 0.08, 1.0), interpolation="bilinear")]


def crop_flip(size: int) -> list[ViewSpec]:
    """One view for supervised training (linear evaluation, fine-tuning): torchvision's default crop, and a flip."""
    return [ViewSpec(size=size, interpolation="bilinear")]


def rand_augment(size: int) -> list[ViewSpec]:
    """One view for fine-tuning ViTs: a bicubic crop, a flip, and two operations of RandAugment at strength 9.

    Touvron et al., "Training data-efficient image transformers" (DeiT), arXiv:2012.12877, table 9, and after it BEiT
    and MAE; their code lets the strength vary about 9 from image to image.
    """
    return [ViewSpec(size=size, rand_augment=2)]


RECIPES: dict[str, Callable[[int], list[ViewSpec]]] = {
    make.__name__: make
    for make in (
        simclr,
        moco_v1,
        moco_v2,
        moco_v3,
        moco_v3_resnet,
        fast_moco,
        byol,
        swav,
        relicv2,
        relicv2_no_masks,
        detco,
        dino,
        jigclu,
        mae,
        rotation,
        crop_flip,
        rand_augment,
    )
}
"""Every recipe by name; each takes the size of the global views in pixels."""
