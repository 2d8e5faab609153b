"""Formats, orientations and bit depths against what PIL sees, and every way to be broken."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.decode import UnreadableError, _decode_with_pil, decode

PIXELS = np.kron(np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8), np.ones((4, 4, 1), np.uint8))
PICTURE = Image.fromarray(PIXELS)  # 32 wide, 20 high, blocks of one colour


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def expected(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


LOSSLESS = [(kind, mode) for kind in ("PNG", "BMP", "TIFF") for mode in ("RGB", "L", "P")]


@pytest.mark.parametrize(("kind", "mode"), [*LOSSLESS, ("PPM", "RGB"), ("PPM", "L"), ("GIF", "L"), ("GIF", "P")])
def test_lossless_formats_exactly(kind, mode):
    picture = PICTURE.convert(mode)
    assert torch.equal(decode(encoded(picture, kind), "x"), expected(picture))


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGB")])
def test_lossy_formats_as_pil_sees_them(kind, mode):
    data = encoded(PICTURE.convert(mode), kind, quality=95)
    difference = decode(data, "x").int() - expected(Image.open(io.BytesIO(data))).int()
    assert difference.abs().max() <= 3


def test_transparency_is_dropped():
    picture = PICTURE.convert("RGBA")
    picture.putalpha(7)
    assert torch.equal(decode(encoded(picture, "PNG"), "x"), expected(PICTURE))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_high_eight(kind):
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16) * 256 + 77
    image = decode(encoded(Image.fromarray(grey), kind), "x")
    assert torch.equal(image, torch.arange(256).view(1, 16, 16).expand(3, -1, -1).to(torch.uint8))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_orientation_is_applied(kind):
    exif = Image.Exif()
    exif[0x112] = 6  # turned by a quarter: to be shown clockwise
    assert torch.equal(decode(encoded(PICTURE, kind, exif=exif), "x"), expected(PICTURE).rot90(-1, (1, 2)))


def test_orientation_is_applied_by_the_fallback_too():
    exif = Image.Exif()
    exif[0x112] = 6
    assert torch.equal(_decode_with_pil(encoded(PICTURE, "PNG", exif=exif), "x"), expected(PICTURE).rot90(-1, (1, 2)))


def test_first_frame_of_an_animation():
    frames = [PICTURE.convert("P"), Image.new("P", PICTURE.size)]
    assert torch.equal(
        decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "x"), expected(frames[0])
    )


def test_a_file(tmp_path):
    (tmp_path / "x.png").write_bytes(encoded(PICTURE, "PNG"))
    assert torch.equal(decode(tmp_path / "x.png", "x"), expected(PICTURE))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_cut_off_pictures(kind, capfd):
    data = encoded(PICTURE, kind)
    with pytest.raises(UnreadableError) as caught:
        decode(data[: len(data) * 2 // 3], "holiday")
    assert caught.value.name == "holiday" and caught.value.reason


@pytest.mark.parametrize(("data", "reason"), [(b"", "it is empty"), (b"<html>", "its format is not known")])
def test_no_pictures(data, reason):
    with pytest.raises(UnreadableError) as caught:
        decode(data, "x")
    assert caught.value.reason.startswith(reason)


def test_no_file(tmp_path):
    with pytest.raises(UnreadableError) as caught:
        decode(tmp_path / "x.png", "x")
    assert caught.value.reason == "No such file or directory"


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableError("x", "it is broken")))
    assert (error.name, error.reason) == ("x", "it is broken")
