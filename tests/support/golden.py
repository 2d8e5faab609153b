"""Numbers from the authors' code."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


def load(name: str) -> dict[str, Tensor]:
    """The arrays of a golden file as tensors."""
    with np.load(GOLDENS / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}
