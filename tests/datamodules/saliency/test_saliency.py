"""The whole way from an image to its mask, and the threshold against a search."""

import numpy as np
import pytest

from datamodules.saliency import otsu, saliency, to_mask


def disc(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A textured disc on a background of another texture, and the truth."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    truth = (y - 0.45 * height) ** 2 + (x - 0.55 * width) ** 2 < (0.28 * min(height, width)) ** 2
    background = np.array([70, 120, 80]) + 15 * np.sin(x / 3 + y / 5)[..., None] + rng.normal(0, 12, (height, width, 3))
    thing = np.array([190, 90, 60]) + 15 * np.sin(y / 4)[..., None] + rng.normal(0, 12, (height, width, 3))
    return np.where(truth[..., None], thing, background).clip(0, 255).astype(np.uint8), truth


@pytest.mark.parametrize(("size", "least"), [((32, 32), 0.85), ((128, 128), 0.9), ((150, 260), 0.9), ((400, 300), 0.9)])
def test_a_disc_is_found(size, least):
    for seed in range(3):
        image, truth = disc(*size, seed)
        found = saliency(image)
        assert found.shape == size and found.min() >= 0 and found.max() <= 1
        mask = found >= otsu(found)
        assert (mask & truth).sum() / (mask | truth).sum() > least


def test_the_same_image_has_the_same_mask():
    image, _ = disc(48, 48)
    assert np.array_equal(saliency(image), saliency(image.copy()))


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (5, 5), (7, 300), (40, 40)])
def test_a_picture_with_nothing_to_tell_apart_keeps_all_of_itself(size):
    image = np.full((*size, 3), 90, dtype=np.uint8)
    if size != (40, 40):  # one colour
        image[0, 0] = 200
    found = saliency(image)
    assert found.shape == size and not found.any()
    assert to_mask(found, 8).all()


def test_a_mask_is_the_squeezed_foreground():
    values = np.zeros((100, 200))
    values[20:60, 100:150] = 0.7
    want = np.zeros((20, 20), dtype=bool)
    want[4:12, 10:15] = True
    assert np.array_equal(to_mask(values, 20), want)


@pytest.mark.parametrize("share", [0.0, 0.004, 0.02, 0.5, 0.89, 0.92, 1.0])
def test_a_mask_of_no_use_removes_nothing(share):
    values = np.zeros(10_000)
    values[: round(share * 10_000)] = 1.0
    mask = to_mask(values.reshape(100, 100), 100)
    assert mask.mean() == pytest.approx(share if 0.01 <= share <= 0.9 else 1.0)


@pytest.mark.parametrize("seed", range(4))
def test_otsu_is_the_best_of_all_thresholds(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.beta(2, 9, 900), rng.beta(9, 3, 200 + 300 * seed)])
    levels = (values * 256).astype(int).clip(0, 255)

    def between(level: int) -> float:
        """Variance between the classes below `level` and from it on."""
        low, high = levels[levels < level], levels[levels >= level]
        if not len(low) or not len(high):
            return 0.0
        return len(low) * len(high) / len(levels) ** 2 * (low.mean() - high.mean()) ** 2

    best = max(range(256), key=between)
    assert otsu(values) == best / 256


def test_otsu_of_equal_values_has_nothing_above_it():
    assert (np.full(9, 0.3) > otsu(np.full(9, 0.3))).sum() == 0
