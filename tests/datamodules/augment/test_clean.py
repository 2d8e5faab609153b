import pytest
import torch
import torchvision.transforms.v2.functional as TF

from datamodules.augment import CleanView

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def reference(image, size, shorter_side):
    image = TF.resize(image / 255, [shorter_side], TF.InterpolationMode.BICUBIC, antialias=True)
    return TF.normalize(TF.center_crop(image, [size, size]).clamp(0, 1), list(MEAN), list(STD))


@pytest.mark.parametrize(
    ("image_size", "size", "shorter_side"), [((300, 411), 224, 256), ((150, 101), 128, 146), ((40, 57), 32, 32)]
)
def test_resize_and_centre_crop_equal_torchvision(image_size, size, shorter_side):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 3, *image_size), dtype=torch.uint8)
    clean = CleanView(size, MEAN, STD)
    views = clean(images)
    worker = clean(torch.stack([clean.crop(image) for image in images]))
    for i in range(3):
        want = reference(images[i], size, shorter_side)
        assert (views[i] - want).abs().max() < 1e-4
        assert (worker[i] - want).abs().mean() < 0.5 / 255 / min(STD)


def test_images_of_the_right_size_are_only_normalised():
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    clean = CleanView(128, MEAN, STD)
    assert torch.equal(clean.crop(images[0]), images[0])
    assert torch.allclose(clean(images), TF.normalize(images / 255, list(MEAN), list(STD)), atol=1e-6)
