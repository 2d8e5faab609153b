"""Random numbers as a pure function of position: (seed, epoch, image, stream).

Nothing here has state, so nothing has to be saved: a run resumed in the middle of an epoch draws what the uninterrupted
run would have drawn, two ranks draw what one process with the global batch draws, and a view that caused trouble at
step 31,417 can be made again alone.

The generator is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): the
position is hashed to a 64-bit state, from which a sequence of independent uniforms follows.
"""

import os

import numpy as np
import torch
from torch import Tensor

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def run_seed() -> int:
    """The seed of this run: what `seed_everything` was given (Lightning keeps it in the environment), else 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: a bijection of 64-bit words in which each input bit reaches every output bit."""
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def _words(*position: int | np.ndarray) -> np.ndarray:
    """Hashes a position, given as integers or integer arrays that broadcast, to 64-bit words."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        state = np.zeros((), dtype=np.uint64)
        for part in position:
            state = _mix(np.asarray(part, dtype=np.int64).astype(np.uint64) + state * _MIX_2 + _GOLDEN_GAMMA)
        return state


def fold(*position: int) -> int:
    """A non-negative 63-bit integer that stands for a position, for example to seed a generator with."""
    return int(_words(*position) >> np.uint64(1))


def uniform(seed: int, epoch: int, index: Tensor, stream: int, count: int) -> Tensor:
    """Uniform numbers in [0, 1), one row an image.

    Args:
        seed: seed of the run.
        epoch: epoch, from 0.
        index: [B] int64, the images' positions in the data set, on the CPU.
        stream: which use of randomness this is (say, which view); different streams are independent.
        count: numbers for each image.

    Returns:
        [B, count] float32 on the CPU. Row b depends on (seed, epoch, index[b], stream) alone.
    """
    state = _words(seed, epoch, index.numpy(), stream)  # [B]
    with np.errstate(over="ignore"):
        words = _mix(state[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN_GAMMA)  # [B, count]
    return torch.from_numpy(
        (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    )  # 24 bits fill a float32


def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """[size] int64: the order in which epoch `epoch` visits `size` images."""
    return np.random.Generator(np.random.Philox(fold(seed, epoch))).permutation(size)
