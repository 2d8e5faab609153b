"""Files that are whole or not there, and what is behind an exception."""

import errno
import os

import pytest

from callbacks.disk import disk_error, whole

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_takes_its_place_when_it_is_written(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    with whole(path) as part:
        part.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [FULL, KeyboardInterrupt(), SystemExit(1)])
def test_a_file_that_is_not_written_leaves_nothing_but_the_one_before(tmp_path, failure):
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(type(failure)), whole(path) as part:
        part.write_text("aft")
        raise failure
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def raised(*errors, suppressed=False):
    """The last of several exceptions, each raised while the one before it was handled."""
    for over, error in zip((None, *errors), errors, strict=False):
        error.__context__, error.__suppress_context__ = over, suppressed
    return errors[-1]


def test_what_the_disk_said_is_found_below_what_torch_says_of_it():
    positions = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 768 vs 662")
    writes = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    assert disk_error(raised(FULL, positions)) is FULL
    assert disk_error(raised(positions)) is positions
    assert disk_error(raised(writes)) is writes
    assert disk_error(raised(FULL)) is FULL
    assert disk_error(raised(RuntimeError("a tensor that cannot be saved"))) is None
    assert disk_error(raised(FULL, RuntimeError("of another kind"), suppressed=True)) is None
