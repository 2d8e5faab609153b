"""A run that dies at any moment and is resumed ends bit for bit where the uninterrupted run ends. All methods.

Each method dies in one of three ways in the fast suite, which way and when being drawn from its name, and in all of
them, on one rank and on two, in the slow one.
"""

import signal
from pathlib import Path

import pytest

from tests.support.killing import MOMENTS, Kill, some_kill
from tests.support.methods import all_methods
from tests.support.ranks import in_process, on_ranks
from tests.support.training import STEPS, fit, same_end

NAMES = [method.__name__ for method in all_methods()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run of a method on some ranks, run once for all of its tests: (folder, result of each rank)."""
    kept = {}

    def run(name: str, ranks: int):
        if (name, ranks) not in kept:
            kept.clear()  # tests of a method stand together
            folder = tmp_path_factory.mktemp("whole")
            kept[name, ranks] = folder, train(name, folder, ranks)
        return kept[name, ranks]

    return run


def train(name, folder, ranks, kill=None, resume=False):
    """Results of all ranks; on one rank without DDP, so that it can be told how the process died."""
    if ranks == 1:
        return [in_process(fit, 0, name, str(folder), kill=kill, resume=resume)]
    return on_ranks(ranks, fit, name, str(folder), ranks, kill, resume, may_die=kill is not None)


def check_resumed(whole, broken: Path, name: str, ranks: int) -> None:
    """Resumes what is left in a folder, and compares everything with the uninterrupted run."""
    folder, expected = whole(name, ranks)
    assert len(set(expected[0]["draws"])) == 2 * STEPS
    same_end(broken, train(name, broken, ranks, resume=True), folder, expected)


def moments(fast: bool):
    """All methods in all ways to die; one way of each is fast."""
    for place, name in enumerate(NAMES):
        for number, moment in enumerate(MOMENTS):
            is_fast = fast and number == place % len(MOMENTS)
            yield pytest.param(name, moment, id=f"{name}-{moment}", marks=[] if is_fast else pytest.mark.slow)


@pytest.mark.parametrize(("name", "moment"), moments(fast=True))
def test_killed_and_resumed(name, moment, whole, tmp_path, record_property):
    assert train(name, tmp_path, 1, some_kill(name, moment)) == [-signal.SIGKILL]
    check_resumed(whole, tmp_path, name, 1)
    record_property("promise", (name, "resumed exactly", moment))


@pytest.mark.ddp
@pytest.mark.parametrize(("name", "moment"), moments(fast=False))
def test_two_ranks_killed_and_resumed(name, moment, whole, tmp_path, record_property):
    train(name, tmp_path, 2, some_kill(name, moment, ranks=2))
    check_resumed(whole, tmp_path, name, 2)
    record_property("promise", (name, "resumed exactly, two ranks", moment))


@pytest.mark.ddp
@pytest.mark.slow
def test_another_number_of_ranks_goes_on_with_the_same_global_batch(tmp_path):
    train("ToyMoCo", tmp_path, 2, Kill("step", 7, ranks=(0, 1)))
    (result,) = train("ToyMoCo", tmp_path, 1, resume=True)
    assert (result["step"], len(result["losses"])) == (6, 2 * STEPS - 6)
