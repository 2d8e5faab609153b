"""Whole views: against a chain of torchvision calls with the same draws, and the two ways against one another."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from lightning_fabric.utilities.apply_func import move_data_to_device

from datamodules.augment import Augment, ViewSpec, recipe

LEVEL = 1 / 255
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
EVERYTHING = ViewSpec(
    size=32,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale=0.3,
    blur=0.5,
    blur_kernel=7,
    solarize=0.3,
)


def photos(count, height, width, channels=3):
    """Smooth uint8 images."""
    torch.manual_seed(0)
    coarse = torch.randn(count, channels, height // 8, width // 8)
    return (F.interpolate(coarse, (height, width), mode="bicubic") * 30 + 128).clamp(0, 255).byte()


def naive(image, i, spec, drawn):
    """View of one image, operation by operation, with torchvision."""
    mode = TF.InterpolationMode(spec.interpolation)
    view = TF.resized_crop(image / 255, *drawn.box[i].tolist(), [spec.size] * 2, mode, antialias=True).clamp(0, 1)
    view = TF.hflip(view) if drawn.flip[i] else view
    view = TF.rotate(view, drawn.angle[i].item(), TF.InterpolationMode.BILINEAR) if spec.rotation else view
    before_hue = next((k for k, rows in enumerate(drawn.hue_after) if i in rows), None)
    for position in range(4) if before_hue is not None else ():
        if position == before_hue and drawn.hue is not None:
            view = TF.adjust_hue(view, drawn.hue[i].item())
        if position < 3:
            a, b, c = drawn.blends[i, position].tolist()
            adjust = TF.adjust_contrast if c else TF.adjust_saturation if b else TF.adjust_brightness
            view = adjust(view, a)
    view = TF.rgb_to_grayscale(view, 3) if i in drawn.grayscale else view
    view = TF.gaussian_blur(view, [spec.kernel] * 2, [drawn.sigma[i].item()] * 2) if i in drawn.blur else view
    view = TF.solarize(view, spec.solarize_threshold) if i in drawn.solarize else view
    return TF.normalize(view, list(MEAN[: len(view)]), list(STD[: len(view)]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spec", [EVERYTHING, replace(EVERYTHING, rotation=20.0, interpolation="bilinear")])
def test_views_equal_a_chain_of_torchvision_calls(spec, channels):
    B = 64
    images = photos(B, 48, 64, channels)
    augment = Augment([spec], MEAN[:channels], STD[:channels], seed=1)
    draws = augment.draw(0, torch.arange(B), (48, 64))
    ((view,), local_views) = augment(images, draws)
    assert local_views == [] and view.dtype == torch.float32
    for i in range(B):
        difference = (view[i] - naive(images[i], i, spec, draws[0])).abs().amax(dim=(1, 2)) * torch.tensor(
            STD[:channels]
        )
        assert difference.max() < LEVEL, i


def both_ways(specs, images, epoch=2):
    index = torch.arange(100, 100 + len(images))
    augment = Augment(specs, (0.0,) * 3, (1.0,) * 3, seed=3)
    whole = augment(images, augment.draw(epoch, index, (images.shape[2], images.shape[3])))
    crops = zip(*(augment.crop(image, epoch, int(i)) for image, i in zip(images, index, strict=True)), strict=True)
    finished = augment.finish([torch.stack(crop) for crop in crops], augment.draw(epoch, index))
    return whole, finished


@pytest.mark.parametrize("name", ["mae", "swav", "dino", "jigclu"])
@pytest.mark.parametrize("size", [32, 96])
def test_both_ways_give_the_same_views(name, size):
    """The workers round to uint8, between the two directions of the resize too, and the jitter stretches that."""
    whole, finished = both_ways(recipe(name, size), photos(6, 120, 160))
    for ours, theirs in zip(whole, finished, strict=True):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).abs().mean() < 0.5 * LEVEL
            assert (a - b).abs().max() < (1.5 if name == "mae" else 8) * LEVEL


def test_views_do_not_depend_on_the_batch():
    images = photos(40, 32, 32)
    augment = Augment(recipe("dino", 32), MEAN, STD, seed=0)
    together = augment(images, augment.draw(5, torch.arange(40), (32, 32)))
    chosen = torch.tensor([31, 2, 17])
    apart = augment(images[chosen], augment.draw(5, chosen, (32, 32)))
    for batch, few in zip(together[0] + together[1], apart[0] + apart[1], strict=True):
        assert torch.allclose(batch[chosen], few, atol=1e-5)


def test_views_differ_between_epochs_views_and_images():
    images = photos(1, 32, 32).expand(3, -1, -1, -1)
    augment = Augment(recipe("simclr", 32), MEAN, STD, seed=0)
    views = [view for epoch in range(2) for view in augment(images, augment.draw(epoch, torch.arange(3), (32, 32)))[0]]
    rows = torch.cat(views).flatten(1)
    assert (torch.cdist(rows, rows) + 1e9 * torch.eye(len(rows)) > 1).all()


def test_multi_crop_is_parted_by_role():
    images = photos(2, 64, 64)
    augment = Augment(recipe("swav", 64), MEAN, STD, seed=0)
    global_views, local_views = augment(images, augment.draw(0, torch.arange(2), (64, 64)))
    assert [view.shape for view in global_views] == [(2, 3, 64, 64)] * 2
    assert [view.shape for view in local_views] == [(2, 3, 24, 24)] * 6


def test_chunks_do_not_show(monkeypatch):
    images = photos(23, 32, 32)
    augment = Augment(recipe("byol", 128), MEAN, STD, seed=0)
    draws = augment.draw(0, torch.arange(23), (32, 32))
    chunked, _ = augment(images, draws)
    monkeypatch.setattr("datamodules.augment.augment._CACHE_BYTES", 2**40)
    for a, b in zip(chunked, augment(images, draws)[0], strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_draws_travel_as_a_batch_does():
    draws = Augment(recipe("mae", 32), MEAN, STD, seed=0).draw(0, torch.arange(4))
    moved = move_data_to_device([draws], torch.device("meta"))[0]
    assert moved[0].box is None and moved[0].hue is None and moved[0].blends.device.type == "meta"
    assert [rows.device.type for rows in moved[0].hue_after] == ["meta"] * 4
    assert type(moved[0]) is type(draws[0])


def test_boxes_are_needed_for_whole_images():
    augment = Augment(recipe("mae", 32), MEAN, STD, seed=0)
    with pytest.raises(AssertionError, match="give image_size"):
        augment(photos(2, 32, 32), augment.draw(0, torch.arange(2)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_an_accelerator_gives_the_views_of_the_cpu_without_being_waited_for():
    images = photos(32, 48, 64)
    augment = Augment([EVERYTHING, replace(EVERYTHING, rotation=10.0)], MEAN, STD, seed=0)
    draws = augment.draw(0, torch.arange(32), (48, 64))
    (expected, _), there = augment(images, draws), move_data_to_device((images, draws), torch.device("cuda"))
    augment(*there)  # the first use places constants on the device
    torch.cuda.set_sync_debug_mode("error")
    views, _ = augment(*there)
    torch.cuda.set_sync_debug_mode("default")
    for view, want in zip(views, expected, strict=True):
        assert (view.cpu() - want).abs().max() < 2 * LEVEL / min(STD)
