"""Random numbers as a pure function of position: (seed, epoch, image, stream).

Nothing here has state, so nothing has to be saved: a run resumed in the middle of an epoch draws what the uninterrupted
run would have drawn, two ranks draw what one process with the global batch draws, and a view that caused trouble at
step 31,417 can be made again alone.

The generator is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): the
position is hashed to a 64-bit state, from which a sequence of independent uniforms follows.
"""

import os
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Words = TypeVar("Words", np.ndarray, Tensor)  # 64-bit words kept as int64, which wraps around and which torch has


def _signed(word: int) -> int:
    """The int64 with the bits of a 64-bit word."""
    return word - 2**64 if word >= 2**63 else word


_GOLDEN_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def run_seed() -> int:
    """The seed of this run: what `seed_everything` was given (Lightning keeps it in the environment), else 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def _shift(z: Words, bits: int) -> Words:
    """Logical shift to the right, so without the copies of the sign that `>>` of an int64 brings in."""
    shifted = z >> bits
    shifted &= (1 << (64 - bits)) - 1
    return shifted


def _mix(z: Words) -> Words:
    """SplitMix64's finaliser: a bijection of 64-bit words in which each input bit reaches every output bit."""
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _on_host(index: Tensor) -> bool:
    return index.device.type == "cpu"


def _as_words(part: int | np.ndarray | Tensor) -> np.ndarray:
    return np.asarray(part, dtype=np.int64)


def _hash(position: tuple[int | Tensor, ...], lift: Callable[..., Words]) -> Words:
    """Hashes a position, given as integers or integer tensors that broadcast, to 64-bit words.

    Args:
        position: its parts, in order.
        lift: makes words of a part: `_as_words` on the host, `torch.as_tensor` elsewhere.
    """
    state = lift(0)
    for part in position:
        state = _mix(lift(part) + state * _MIX_2 + _GOLDEN_GAMMA)
    return state


def fold(*position: int) -> int:
    """A non-negative 63-bit integer that stands for a position, for example to seed a generator with."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        return int(_shift(_hash(position, _as_words), 1))


def uniform(seed: int, epoch: int, index: Tensor, stream: int, count: int) -> Tensor:
    """Uniform numbers in [0, 1), one row an image.

    On an accelerator nothing waits: the hashing is made of its integer operations, the numbers are those of the CPU.

    Args:
        seed: seed of the run.
        epoch: epoch, from 0.
        index: [B] int64, the images' positions in the data set.
        stream: which use of randomness this is (say, which view); different streams are independent.
        count: numbers for each image.

    Returns:
        [B, count] float32 on the device of `index`. Row b depends on (seed, epoch, index[b], stream) alone.
    """
    position = (seed, epoch, index, stream)
    if _on_host(index):
        with np.errstate(over="ignore"):  # numpy hashes on a CPU in half of torch's time
            words = _fractions(_hash(position, _as_words), np.arange(1, count + 1))
        return torch.from_numpy(words.astype(np.float32) * np.float32(2.0**-24))
    draws = torch.arange(1, count + 1, device=index.device)
    return _fractions(_hash(position, torch.as_tensor), draws).float() * 2.0**-24


def _fractions(state: Words, draws: Words) -> Words:
    """[B, count] words below 2**24, as many bits as a float32 holds: draw after draw of each state [B]."""
    return _shift(_mix(state[:, None] + draws * _GOLDEN_GAMMA), 40)


def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """[size] int64: the order in which epoch `epoch` visits `size` images."""
    return np.random.Generator(np.random.Philox(fold(seed, epoch))).permutation(size)
