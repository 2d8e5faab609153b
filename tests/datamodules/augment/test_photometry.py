"""Each batched colour operation against torchvision's functional with the same parameters."""

import pytest
import torch
import torchvision.transforms.functional as TF

from datamodules.augment import photometry
from datamodules.errors import UserError

LEVEL = 1 / 255
B = 8


@pytest.fixture(params=[(32, 32), (48, 64)], ids=str)
def images(request):
    torch.manual_seed(0)
    images = torch.rand(B, 3, *request.param)
    images[0] = images[0, :1]  # gray: no chroma, no hue
    images[1] = images[1].round()  # black, white and the six full colours: every tie of the largest channel
    images[2] = (images[2] * 3).round() / 3
    images[3] = 0.5 + 1e-4 * images[3]  # nearly gray
    return images


def worst(result, images, reference):
    return max((result[i] - reference(images[i], i)).abs().max().item() for i in range(len(images)))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("channels", [1, 3])
def test_blends(images, name, channels):
    images = images[:, :channels]
    f = torch.linspace(0, 1.8, B)
    zero = torch.zeros(B)
    coefficients = {"brightness": (f, zero, zero), "contrast": (f, zero, 1 - f), "saturation": (f, 1 - f, zero)}[name]
    result = photometry.blend(images, torch.stack(coefficients, dim=1))
    reference = getattr(TF, f"adjust_{name}")
    assert worst(result, images, lambda image, i: reference(image, f[i].item())) < 0.01 * LEVEL


def test_hue(images):
    for shift in (torch.linspace(-0.5, 0.5, B), torch.full((B,), 1e-3), torch.zeros(B)):
        result = photometry.shift_hue(images, shift)
        assert worst(result, images, lambda image, i, shift=shift: TF.adjust_hue(image, shift[i].item())) < 0.05 * LEVEL


def test_jitter_is_its_operations_in_their_order(images):
    f, shift = (1.3, 0.6, 1.7), torch.linspace(-0.2, 0.2, B)
    steps = [
        ((f[1], 0, 1 - f[1]), lambda image: TF.adjust_contrast(image, f[1])),
        ((f[0], 0, 0), lambda image: TF.adjust_brightness(image, f[0])),
        ((f[2], 1 - f[2], 0), lambda image: TF.adjust_saturation(image, f[2])),
    ]
    blends = torch.tensor([coefficients for coefficients, _ in steps]).expand(B, -1, -1)
    for before_hue in (0, 1, 2, 3, None):

        def reference(image, i, before_hue=before_hue):
            operations = [operation for _, operation in steps]
            if before_hue is not None:
                operations.insert(before_hue, lambda image: TF.adjust_hue(image, shift[i].item()))
            for operation in operations:
                image = operation(image)
            return image

        hue = None if before_hue is None else shift
        assert worst(photometry.jitter(images, blends, hue, before_hue or 0), images, reference) < 0.2 * LEVEL


def test_grayscale(images):
    result = photometry.grayscale(images)
    assert worst(result, images, lambda image, i: TF.rgb_to_grayscale(image, 3)) < 0.01 * LEVEL


@pytest.mark.parametrize("kernel", [3, 9, 23])
@pytest.mark.parametrize("channels", [1, 3])
def test_blur(images, kernel, channels):
    images = images[:, :channels]
    sigma = torch.linspace(0.1, 2.0, B)
    result = photometry.blur(images, sigma, kernel, widest=2.0)
    assert result.shape == images.shape
    reference = lambda image, i: TF.gaussian_blur(image, [kernel] * 2, [sigma[i].item()] * 2)
    assert worst(result, images, reference) < 0.1 * LEVEL


def test_solarize(images):
    images = (images * 255).round() / 255
    result = photometry.solarize(images, 128 / 255)
    assert worst(result, images, lambda image, i: TF.solarize(image, 128 / 255)) == 0
    levels = TF.solarize((images[4] * 255).byte(), 128)  # PIL's and torchvision's uint8 convention
    assert ((result[4] * 255).round() - levels).abs().max() == 0


def test_normalize(images):
    normalize = photometry.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    want = TF.normalize(images, list(normalize.mean), list(normalize.std))
    normalize(images)
    assert torch.allclose(images, want)


def test_removed_background_is_the_fill_and_the_foreground_stays(images):
    mask = torch.rand_like(images[:, :1])
    mask[0, 0, 0, 0], mask[0, 0, 0, 1] = 0.5, 0.501
    rows, fill = torch.tensor([5, 0]), torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    result = photometry.remove_background(torch.cat((images, mask), dim=1), rows, fill)
    for b in range(B):
        for y in range(images.shape[2]):
            kept = mask[b, 0, y] > 0.5 if b in rows else torch.ones(images.shape[3], dtype=torch.bool)
            assert torch.equal(result[b, :, y, kept], images[b, :, y, kept])
            assert (result[b, :, y, ~kept] == fill[0 if b == 5 else 1, :, None]).all()


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.2, 0.2)), ((0.5,), (0.0,)), ((), ())])
def test_statistics_that_do_not_fit_are_refused(mean, std):
    with pytest.raises(UserError, match="one number for each colour channel"):
        photometry.Normalize(mean, std)
