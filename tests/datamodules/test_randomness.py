"""Random numbers by position: uniform, independent of one another, and of nothing but their position."""

import itertools

import numpy as np
import pytest
import torch

from datamodules import randomness
from datamodules.randomness import fold, permutation, run_seed, uniform

INDEX = torch.arange(2000)


def chi_square(u: np.ndarray, bins: int = 16) -> float:
    """Statistic of equal bins, in standard deviations from its mean; |z| < 4 fails one time in 15,000."""
    counts = np.bincount((u * bins).astype(int), minlength=bins)
    statistic = ((counts - len(u) / bins) ** 2 / (len(u) / bins)).sum()
    return (statistic - (bins - 1)) / np.sqrt(2 * (bins - 1))


def test_uniform_in_the_unit_interval():
    u = uniform(0, 0, INDEX, 0, 50)
    assert u.dtype == torch.float32
    assert u.shape == (2000, 50)
    assert 0 <= u.min() < 1e-3
    assert 1 - 1e-3 < u.max() < 1
    assert abs(chi_square(u.double().numpy().ravel())) < 4
    assert u.unique().numel() > 0.99 * u.numel()
    for column in u.double().numpy().T:  # every draw of its own
        assert abs(chi_square(column)) < 5


POSITIONS = {
    "seed": [uniform(s, 3, INDEX, 1, 8) for s in (5, 6)],
    "epoch": [uniform(5, e, INDEX, 1, 8) for e in (3, 4)],
    "stream": [uniform(5, 3, INDEX, v, 8) for v in (1, 2)],
    "image": [uniform(5, 3, INDEX + i, 1, 8) for i in (0, 1)],
    "draw": [uniform(5, 3, INDEX, 1, 9)[:, i : i + 8] for i in (0, 1)],
    "seed for epoch": [uniform(a, b, INDEX, 1, 8) for a, b in ((5, 3), (3, 5))],
    "epoch for stream": [uniform(5, a, INDEX, b, 8) for a, b in ((1, 3), (3, 1))],
}


@pytest.mark.parametrize("neighbour", POSITIONS)
def test_neighbouring_positions_are_independent(neighbour):
    a, b = (u.double().numpy().ravel() for u in POSITIONS[neighbour])
    assert not np.array_equal(a, b)
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(a))
    joint = (a * 8).astype(int) * 8 + (b * 8).astype(int)
    assert abs(chi_square((joint + 0.5) / 64, bins=64)) < 4


def test_a_row_depends_on_its_image_alone():
    whole = uniform(7, 2, INDEX, 1, 6)
    some = torch.tensor([1999, 3, 3, 500])
    assert torch.equal(uniform(7, 2, some, 1, 6), whole[some])
    assert torch.equal(uniform(7, 2, some, 1, 2), whole[some, :2])  # nor on how many are asked for
    torch.manual_seed(99)
    assert torch.equal(uniform(7, 2, INDEX, 1, 6), whole)


def test_positions_far_away_and_below_zero():
    edges = torch.tensor([-1, 0, 2**31, 2**62])
    u = uniform(-(2**40), 10**6, edges, 3, 4)
    assert u.unique().numel() == 16
    assert 0 <= u.min() <= u.max() < 1


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_permutation_visits_every_image_once(size):
    assert sorted(permutation(0, 0, size)) == list(range(size))


def test_permutations_differ_by_epoch_and_seed_and_repeat():
    orders = [permutation(seed, epoch, 500) for seed in range(3) for epoch in range(3)]
    for a, b in itertools.combinations(orders, 2):
        assert (a == b).mean() < 0.02  # one fixed point is expected
    assert np.array_equal(permutation(1, 2, 500), orders[1 * 3 + 2])


def test_first_image_of_an_epoch_is_any():
    first = np.array([permutation(0, epoch, 16)[0] for epoch in range(1600)])
    assert abs(chi_square((first + 0.5) / 16)) < 4


def test_fold_gives_distinct_seeds_for_a_generator():
    seeds = {fold(a, b, c) for a in range(12) for b in range(12) for c in range(12)}
    assert len(seeds) == 12**3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({fold(1), fold(1, 0), fold(0, 1), fold(1, 0, 0)}) == 4  # length and order count


def test_numbers_are_the_same_everywhere():
    """Runs are repeated on other machines and years later: these were written down once."""
    assert fold(0, 1, 2) == 1768321551330725035
    assert uniform(1, 2, torch.tensor([3]), 4, 2).tolist() == [[0.6577276587486267, 0.38447123765945435]]
    assert permutation(1, 2, 8).tolist() == [4, 1, 3, 2, 0, 7, 6, 5]


def reference(seed: int, epoch: int, image: int, stream: int, count: int) -> list[float]:
    """SplitMix64 in whole numbers without end, cut to 64 bits."""
    word = 2**64 - 1

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & word
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & word
        return z ^ (z >> 31)

    state = 0
    for part in (seed, epoch, image, stream):
        state = mix((part + state * 0x94D049BB133111EB + 0x9E3779B97F4A7C15) & word)
    return [(mix((state + i * 0x9E3779B97F4A7C15) & word) >> 40) / 2**24 for i in range(1, count + 1)]


EDGES = torch.tensor([-1, 0, 1, 2**31, 2**62, -(2**63), 49_999])


def test_the_numbers_are_splitmix64():
    want = [reference(-(2**40), 10**6, image, 3, 5) for image in EDGES.tolist()]
    assert uniform(-(2**40), 10**6, EDGES, 3, 5).tolist() == want


def test_the_numbers_of_an_accelerator_are_those_of_the_cpu(monkeypatch):
    want = uniform(5, 3, EDGES, 1, 70), uniform(5, 3, INDEX, 1, 8)
    # torch's integer arithmetic is the same on all devices: only the branch is to be taken
    monkeypatch.setattr(randomness, "_on_host", lambda _: False)
    for index, numbers in zip((EDGES, INDEX), want, strict=True):
        found = uniform(5, 3, index, 1, numbers.shape[1])
        assert found.dtype == torch.float32 and torch.equal(found, numbers)


def test_an_accelerator_is_not_waited_for():
    """A tensor without values: whatever had to look at one would fail."""
    found = uniform(5, 3, INDEX.to("meta"), 1, 8)
    assert found.device.type == "meta" and found.shape == (2000, 8) and found.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_on_an_accelerator():
    there = INDEX.cuda()
    torch.cuda.set_sync_debug_mode("error")
    found = uniform(5, 3, there, 1, 8)
    torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.cpu(), uniform(5, 3, INDEX, 1, 8))


def test_seed_of_the_run_is_lightnings(monkeypatch):
    assert run_seed() == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "31")
    assert run_seed() == 31
