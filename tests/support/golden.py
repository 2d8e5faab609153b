"""Numbers from the authors' code."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


def load(name: str) -> dict[str, Tensor]:
    """The arrays of a golden file as tensors; those of text are left out."""
    with np.load(GOLDENS / f"{name}.npz") as arrays:
        numbers = {key: arrays[key] for key in arrays.files if arrays[key].dtype.kind != "U"}
    return {key: torch.from_numpy(np.asarray(value)) for key, value in numbers.items()}
