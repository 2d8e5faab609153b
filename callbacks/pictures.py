"""Pictures of a run: from normalised tensors to what a page can show."""

import base64
import io
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def to_pixels(images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None, side: int) -> Tensor:
    """Undoes normalisation and shrinks, for showing.

    Args:
        images: [N, C, H, W] normalised.
        mean: of each channel; None if unknown, then each image is stretched over the full range instead.
        std: of each channel; None likewise.
        side: longest side that is needed, in pixels; larger images are shrunk to it.

    Returns:
        [N, C', h, w] uint8 on the CPU: the first three channels if there are as many, else the first one.
    """
    C, H, W = images.shape[1:]
    shown = 3 if C >= 3 else 1
    images = images[:, :shown].float()
    if max(H, W) > side:
        size = (max(1, round(H * side / max(H, W))), max(1, round(W * side / max(H, W))))
        images = F.interpolate(images, size=size, mode="area")
    if mean is None or std is None:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        images = (images - low) / (high - low).clamp(min=1e-6)
    else:
        images = images * images.new_tensor(std[:shown])[:, None, None] + images.new_tensor(mean[:shown])[:, None, None]
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def data_uri(image: Tensor) -> str:
    """A picture as a `data:` address: PNG where pixels are few and exact, JPEG where they are many.

    Args:
        image: [C, H, W] uint8, C 1 or 3.
    """
    picture = _picture(image)
    exact = max(picture.size) <= 64
    file = io.BytesIO()
    picture.save(file, **({"format": "PNG", "optimize": True} if exact else {"format": "JPEG", "quality": 88}))
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def contact_sheet(images: Tensor, columns: int) -> str:
    """Many small pictures as one, row by row, as a `data:` address; a page cuts out the one it needs.

    Args:
        images: [N, C, h, w] uint8, C 1 or 3.
        columns: pictures in a row.
    """
    N, C, h, w = images.shape
    rows = -(-N // columns)
    padding = images.new_zeros((rows * columns - N, C, h, w))
    sheet = torch.cat([images, padding]).view(rows, columns, C, h, w).permute(2, 0, 3, 1, 4).reshape(C, rows * h, -1)
    file = io.BytesIO()
    _picture(sheet).save(file, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _picture(image: Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
