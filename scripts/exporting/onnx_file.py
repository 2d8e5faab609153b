"""A backbone as an ONNX file, for runtimes without torch."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.onnx.errors import OnnxExporterError

from datamodules.errors import UserError
from methods.pretrained import Pretrained
from scripts.exporting.images import USUAL_SIDE, channels, side, takes_other_sizes
from scripts.exporting.rebuild import UnfitError
from scripts.quiet import logging_from

LARGEST = 2**31  # bytes of a protocol buffer


def check_size(network: nn.Module) -> None:
    """Refuses what one file cannot hold.

    Raises:
        UnfitError: the weights are too large.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size >= LARGEST:
        raise UnfitError(f"its weights take {size / 2**30:.1f} GiB, and an ONNX file holds 2")


def write(pretrained: Pretrained, metadata: dict[str, str], path: Path) -> None:
    """Writes `images` [B, C, H, W] -> `features` [B, D]: B is free, H and W where the network takes several sizes.

    Raises:
        UserError: the network does something that ONNX has no words for.
    """
    pixels = side(pretrained) or USUAL_SIDE
    free = {0: "batch", 2: "height", 3: "width"} if takes_other_sizes(pretrained) else {0: "batch"}
    images = torch.zeros(2, channels(pretrained), pixels, pixels)
    try:
        with _quiet():
            program = torch.onnx.export(
                pretrained.backbone,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes=(free,),
            )
    except OnnxExporterError as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"torch's exporter cannot put {type(pretrained.backbone).__name__} into ONNX ({cause}): choose another "
            "--to, such as safetensors."
        ) from error
    assert program is not None, "the exporter returns a program unless it writes a file itself"
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the exporter says of its own workings out of the terminal."""
    with logging_from(logging.ERROR, "torch.onnx"), warnings.catch_warnings(action="ignore"):
        yield
