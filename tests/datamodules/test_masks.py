"""Masks from the file to the views: the right one for each image, and refusals in sentences."""

import json
import os

import numpy as np
import pytest
import torch

from datamodules.augment import ViewSpec
from datamodules.errors import UserError
from datamodules.masks import MaskedSource, read_header, write_masks
from tests.datamodules.toys import BadSource, Recorder, Toy, epoch, pixels, trainer

CACHES = ["device", "ram", "none"]
WHOLE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0, "interpolation": "bilinear"}
REMOVING = ViewSpec(size=16, count=2, background_removal=1.0, background="black", **WHOLE)


def bars(count: int, side: int = 16) -> np.ndarray:
    """[count, side, side] bool: image i has column i % 16 as its only foreground."""
    masks = np.zeros((count, side, side), dtype=bool)
    masks[np.arange(count), :, np.arange(count) % 16 * side // 16] = True
    return masks


@pytest.fixture
def masks(tmp_path):
    """A file with the bars for the toy's training images."""
    path = tmp_path / "masks.bin"
    write_masks(path, Toy().sources()[0], [bars(40)[:30], bars(40)[30:]], "Toy", "a.b")
    return str(path)


def test_round_trip(masks):
    source = Toy().sources()[0]
    joined = MaskedSource(source, masks)
    assert len(joined) == 40 and joined.name(3) == "picture 3" and joined.num_classes == 3
    for i in range(40):
        image = joined.image(i)
        assert image.dtype == torch.uint8 and torch.equal(image[:3], source.image(i))
        assert np.array_equal(image[3].numpy(), bars(40)[i] * 255)


def test_sides_that_are_no_whole_bytes(tmp_path):
    random = np.random.default_rng(0).random((7, 5, 5)) < 0.5
    source = BadSource(pixels(7, size=5), set())
    write_masks(tmp_path / "m", source, [random], "Toy", "a.b")
    joined = MaskedSource(source, str(tmp_path / "m"))
    for i in range(7):
        assert np.array_equal(joined.image(i)[3].numpy() == 255, random[i])


def test_a_small_mask_is_enlarged_to_its_image(tmp_path):
    mask = np.zeros((3, 8, 8), dtype=bool)
    mask[:, 2:6, 4:] = True
    images = torch.zeros(3, 3, 40, 64, dtype=torch.uint8)
    write_masks(tmp_path / "m", BadSource(images, set()), [mask], "Toy", "a.b")
    enlarged = MaskedSource(BadSource(images, set()), str(tmp_path / "m")).image(1)[3] > 127
    assert enlarged.shape == (40, 64)
    assert enlarged[10:30, 32:].float().mean() > 0.97 and enlarged.float().mean() == pytest.approx(0.25, abs=0.01)


def test_what_the_header_tells(masks, tmp_path):
    _, header = read_header(masks)
    assert (header.version, header.data, header.method, header.count, header.side) == (1, "Toy", "a.b", 40, 16)
    assert header.usable == 1.0 and header.foreground == pytest.approx(1 / 16)
    some = bars(40)
    some[:10] = True
    header = write_masks(tmp_path / "m", Toy().sources()[0], [some], "Toy", "a.b")
    assert header.usable == 0.75 and header.foreground == pytest.approx(1 / 16)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    def broken():
        yield bars(40)[:20]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_masks(tmp_path / "m", Toy().sources()[0], broken(), "Toy", "a.b")
    with pytest.raises(AssertionError, match="20 masks of 40 images"):
        write_masks(tmp_path / "m", Toy().sources()[0], [bars(20)], "Toy", "a.b")
    assert os.listdir(tmp_path) == []


def column(view: torch.Tensor) -> list[int]:
    """The columns of [C, H, W] that are not black."""
    return torch.where((view != 0).any(dim=0).any(dim=0))[0].tolist()


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("subset", [None, 12])
def test_each_image_has_its_own_mask(cache, subset, masks, monkeypatch):
    white = torch.full((40, 3, 16, 16), 200, dtype=torch.uint8)
    monkeypatch.setattr(Toy, "sources", lambda self: (BadSource(white, {5}), BadSource(pixels(20), set())))
    monkeypatch.setattr("datamodules.masks._alike", lambda *_: True)  # the masks are those of other pixels
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3, "batch_size": 4}
    data = Toy(views=[REMOVING], masks=masks, cache=cache, max_train_images=subset, **plain)
    batches = epoch(data)
    seen = [int(i) for batch in batches for i in batch.index]
    rows = data._splits.sources["train"].rows
    assert len(rows) == (subset or 40) and (subset is None or not np.array_equal(rows, np.arange(12)))
    for batch in batches:
        for index, *views in zip(batch.index.tolist(), *batch.global_views, strict=True):
            assert all(view.shape == (3, 16, 16) and column(view) == [rows[index] % 16] for view in views)
    assert len(seen) == (subset or 40)


@pytest.mark.parametrize("cache", CACHES)
def test_clean_images_and_recipes_without_removal_know_of_no_mask(cache, masks):
    data, plain = Toy(views=[REMOVING], masks=masks, cache=cache), Toy(cache=cache)
    for each in (data, plain):
        each.setup("fit")
    for split in ("train", "val"):
        batches = zip(*(d.clean_batches(split, torch.device("cpu")) for d in (data, plain)), strict=True)
        assert all(torch.equal(a.global_views[0], b.global_views[0]) for a, b in batches)
    with pytest.warns(UserWarning, match="masks.bin is not used: the recipe .* removes no background"):
        with_masks = epoch(Toy(masks=masks, cache=cache))
    for a, b in zip(with_masks, epoch(plain), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.global_views, b.global_views, strict=True))


def test_unreadable_pictures_give_their_place_with_their_masks(masks):
    data = Toy(views=[REMOVING], masks=masks, bad={5}, cache="ram", mean=[0.0] * 3, std=[1.0] * 3)
    seen = {int(i): view for batch in epoch(data) for i, view in zip(batch.index, batch.global_views[0], strict=True)}
    assert 5 not in seen and column(seen[6]) == [6]


def test_a_recipe_that_needs_masks_says_how_to_get_them():
    data = Toy(views="relicv2")
    with pytest.raises(UserError, match=r"--data Toy --out toy_masks.bin .*--data.views relicv2_no_masks"):
        data.setup("fit")
    trainer().validate(Recorder(), Toy(views="relicv2"), verbose=False)  # evaluation needs none
    assert [view.shape[1] for view in epoch(Toy(views="relicv2_no_masks"))[0].global_views] == [3, 3]


def test_files_of_masks_that_do_not_fit_are_refused(masks, tmp_path):
    def refused(message: str, **arguments) -> None:
        with pytest.raises(UserError, match=message):
            Toy(**({"views": [REMOVING], "masks": masks} | arguments)).setup("fit")

    refused("absent: there is no such file. Make it with .* --data Toy --out .*absent", masks=str(tmp_path / "absent"))
    refused("40 images .Toy., but there are 30 training images: .* --data Toy --out FILE", num_images=30)
    other = tmp_path / "other"
    write_masks(other, BadSource(pixels(40, seed=7), set()), [bars(40)], "Others", "a.b")
    refused("holds masks of Others, but the training images are others", masks=str(other))
    for content in (b"no masks", json.dumps({"a": 1}).encode(), b"[1]"):
        other.write_bytes(content)
        refused("is no file of masks", masks=str(other))
    whole = (tmp_path / "masks.bin").read_bytes()
    other.write_bytes(whole[:-1])
    refused("is damaged: make it again with .*--data Toy --out .*other", masks=str(other))
    other.write_bytes(whole.replace(b'"version": 1', b'"version": 7'))
    refused("is of version 7, not 1", masks=str(other))


def test_decoders_may_differ_by_a_little(masks, monkeypatch):
    images = Toy().sources()[0].images.int()
    for change, fits in ((2, True), (9, False)):
        source = BadSource((images + change).clamp(0, 255).byte(), set())
        if fits:
            MaskedSource(source, masks)
        else:
            with pytest.raises(UserError, match="are others"):
                MaskedSource(source, masks)


def test_masks_lie_also_below_the_variable(masks, monkeypatch, tmp_path):
    monkeypatch.setenv("PARALLAX_DATA", str(tmp_path))
    assert len(MaskedSource(Toy().sources()[0], "masks.bin")) == 40
