"""Reads a file of weights as data; nothing in it is ever executed."""

import argparse
import pathlib
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.errors import UserError

_SCALAR = np.float64(0).__reduce__()[0]  # the function that rebuilds numbers of numpy's

# Beyond torch's own list, which `weights_only` allows: what the authors' training scripts leave in their files (MAE,
# DINO and timm store the arguments of the run). Rebuilding any of it sets attributes or copies bytes: no file is
# opened, no code of the file's choosing is called.
HARMLESS: list[Any] = [
    argparse.Namespace,  # its state becomes its `__dict__`
    pathlib.PosixPath,  # joins strings
    (_SCALAR, "numpy.core.multiarray.scalar"),  # copies the bytes of one number; its name in numpy 1
    (_SCALAR, "numpy._core.multiarray.scalar"),  # and in numpy 2
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),  # plain numbers, never objects
]


METADATA = "__metadata__"
"""Entry for what a safetensors file says beside its tensors, all of it text."""


def read_file(path: str) -> dict[str, Any]:
    """The contents of a checkpoint, on the CPU.

    Args:
        path: written by `torch.save`, by releases of torch back to 0.4, or a `.safetensors` file.

    Returns:
        What was saved; of safetensors the tensors by name, and `METADATA`.

    Raises:
        UserError: no such file, no checkpoint, cut short, or it holds something that only code could rebuild.
    """
    if not Path(path).is_file():
        raise UserError(
            f"{path}: there is no such file. A run's newest checkpoint is checkpoints/last.ckpt in its folder."
        )
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    try:
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # no file of torch's: refused below
            found = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, str(error))) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is no checkpoint of torch's, or was not written to its end: give another file."
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not a dictionary of tensors: give a checkpoint.")
    return found


def _refusal(path: str, message: str) -> str:
    """Why a pickle was not read, from torch's account of it."""
    if named := re.search(r"(?:GLOBAL|class|function) (?:<\w+ ')?([\w.]+\.[\w.]+)", message):
        return (
            f"{path} holds {named[1]}, which only code could rebuild, and a checkpoint from elsewhere may run any "
            "code: it is refused. Where you trust it, load it in Python and save its state_dict alone."
        )
    return f"{path} is no checkpoint of torch's, or was not written to its end: give another file."


def _read_safetensors(path: str) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            return tensors | {METADATA: file.metadata() or {}}
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file, or was not written to its end: give another file.") from error
