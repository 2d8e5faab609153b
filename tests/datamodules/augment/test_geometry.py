"""The batched geometry against torchvision's functionals with the same parameters."""

import pytest
import torch
import torchvision.transforms.functional as TF
import torchvision.transforms.v2.functional as TF2

from datamodules.augment.geometry import crop_resize, crop_resize_one, resize_matrix, rotate

MODES = {"bilinear": TF.InterpolationMode.BILINEAR, "bicubic": TF.InterpolationMode.BICUBIC}


def boxes(count, height, width):
    """Random boxes, with the whole image and a single pixel among them."""
    h, w = torch.randint(1, height + 1, (count,)), torch.randint(1, width + 1, (count,))
    top, left = (torch.rand(count) * (height - h + 1)).long(), (torch.rand(count) * (width - w + 1)).long()
    box = torch.stack((top, left, h, w), dim=1)
    box[0] = torch.tensor([0, 0, height, width])
    box[1] = torch.tensor([height - 1, 3, 1, 1])
    return box


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("image_size", "size"), [((32, 32), 32), ((48, 64), 24), ((48, 64), 80)])
def test_crop_resize_equals_torchvision(image_size, size, channels, interpolation):
    torch.manual_seed(0)
    B = 24
    images = torch.randint(0, 256, (B, channels, *image_size), dtype=torch.uint8)
    box, flip = boxes(B, *image_size), torch.arange(B) % 2 == 1
    out = torch.empty(B, channels, size, size)
    crop_resize(images, box, flip, interpolation, out=out)
    for i in range(B):
        want = TF.resized_crop(images[i] / 255, *box[i].tolist(), [size, size], MODES[interpolation], antialias=True)
        want = (TF.hflip(want) if flip[i] else want).clamp(0, 1)
        assert (out[i] - want).abs().max() < 0.01 / 255


@pytest.mark.parametrize("interpolation", MODES)
def test_rows_of_a_resize_matrix_are_weights_within_the_window(interpolation):
    start, length, flip = torch.tensor([0, 3]), torch.tensor([20, 9]), torch.tensor([False, True])
    matrix = resize_matrix(start, length, flip, 20, 7, interpolation)
    assert torch.allclose(matrix.sum(dim=2), torch.ones(2, 7))
    assert (matrix[1, :, :3] == 0).all() and (matrix[1, :, 12:] == 0).all()


def test_rotate_equals_torchvision():
    torch.manual_seed(0)
    views = torch.rand(4, 3, 32, 32)
    angle = torch.tensor([0.0, 15.0, -40.0, 90.0])
    rotated = rotate(views, angle)
    for i in range(4):
        want = TF.rotate(views[i], angle[i].item(), TF.InterpolationMode.BILINEAR)
        assert (rotated[i] - want).abs().max() < 0.1 / 255


@pytest.mark.parametrize("interpolation", MODES)
def test_the_worker_s_crop_equals_torchvision(interpolation):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    for box in boxes(20, 48, 64).tolist():
        want = TF2.resized_crop(image, *box, [24, 24], MODES[interpolation], antialias=True)
        for flip in (False, True):
            crop = crop_resize_one(image, box, flip, 24, interpolation)
            assert crop.dtype == torch.uint8
            assert torch.equal(crop, TF.hflip(want) if flip else want)
