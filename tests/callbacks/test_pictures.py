"""Pictures as a page can show them."""

from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.pictures import contact_sheet, data_uri, to_pixels


def test_to_pixels_undoes_normalisation():
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    images = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.equal(to_pixels(images, mean, std, 32), pixels)


def test_to_pixels_shrinks_but_never_enlarges_and_stretches_without_statistics():
    images = torch.randn(2, 4, 100, 50)
    assert to_pixels(images, None, None, 40).shape == (2, 3, 40, 20)
    stretched = to_pixels(images[..., :20, :20], None, None, 40)
    assert stretched.shape == (2, 3, 20, 20) and stretched.min() == 0 and stretched.max() == 255


@pytest.mark.parametrize(("shape", "kind"), [((3, 64, 48), "png"), ((1, 28, 28), "png"), ((3, 112, 112), "jpeg")])
def test_data_uri(shape, kind):
    assert data_uri(torch.zeros(shape, dtype=torch.uint8)).startswith(f"data:image/{kind};base64,")


def test_contact_sheet_places_pictures_row_by_row():
    images = (torch.arange(5, dtype=torch.uint8) * 50)[:, None, None, None].expand(5, 1, 16, 16)
    sheet = Image.open(BytesIO(b64decode(contact_sheet(images, 3).partition(",")[2])))
    assert sheet.size == (48, 32)
    levels = [sheet.getpixel((8 + 16 * (i % 3), 8 + 16 * (i // 3))) for i in range(6)]
    assert np.allclose(levels, [0, 50, 100, 150, 200, 0], atol=4)
