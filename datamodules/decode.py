"""Encoded pictures to uint8 tensors, whatever the format, with one error for all that can go wrong."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image


class UnreadableError(Exception):
    """A picture that cannot be decoded.

    Attributes:
        name: which picture, as its source calls it.
        reason: what is wrong with it, in a few words.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both as arguments, so that the error survives pickling
        self.name = name
        self.reason = reason


def read_bytes(path: Path, name: str) -> bytes:
    """A picture's file; `name` is what to call it in an error. Raises `UnreadableError` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableError(name, error.strerror or str(error)) from None


def decode(data: bytes | Path, name: str) -> Tensor:
    """Decodes one picture to RGB.

    torchvision decodes JPEG, PNG, WebP and GIF two to three times as fast as PIL; PIL takes what torchvision declines
    (BMP, TIFF, ...). The orientation in EXIF is applied, 16-bit pictures keep their 8 high bits, transparency is
    dropped, and of an animation the first frame is taken.

    Args:
        data: the encoded picture, or the file that holds it.
        name: what to call the picture in an error.

    Returns:
        [3, H, W] uint8.

    Raises:
        UnreadableError: if the file cannot be read or is no complete picture.
    """
    if isinstance(data, Path):
        data = read_bytes(data, name)
    if not data:
        raise UnreadableError(name, "it is empty")
    try:
        # frombuffer wants writable memory: bytearray copies the (small) encoded bytes
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image = decode_image(encoded, ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError:  # torchvision's word for "not my format" and "corrupt" alike: PIL decides which
        return _decode_with_pil(data, name)
    if image.dtype == torch.uint16:
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    return image[0] if image.ndim == 4 else image


def _decode_with_pil(data: bytes, name: str) -> Tensor:
    """`decode` of encoded bytes by PIL."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):  # 16 bits, which PIL would clip to 255 instead of scaling
                grey = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                picture = Image.fromarray(grey)
            pixels = np.array(picture.convert("RGB"))  # [H, W, 3]
    except UnidentifiedImageError:
        raise UnreadableError(name, "its format is not known, or it is not a picture") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: PIL's broken PNG
        raise UnreadableError(name, str(error)) from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
