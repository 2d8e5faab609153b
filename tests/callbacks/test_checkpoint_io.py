"""Checkpoints that are whole or not there."""

import errno
import io
import os
from pathlib import Path

import pytest
import torch

from callbacks.checkpoint_io import AtomicCheckpointIO, is_complete, newest_complete
from datamodules.errors import UserError

STATE = {"state_dict": {"weight": torch.arange(1000.0)}, "epoch": 3, "pytorch-lightning_version": "2.6.6"}


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "deep" / "er" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    found = AtomicCheckpointIO().load_checkpoint(path, weights_only=True)
    assert found["epoch"] == 3
    assert torch.equal(found["state_dict"]["weight"], STATE["state_dict"]["weight"])
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("other", [{"weight": torch.ones(2)}, {"state_dict": {}}, torch.ones(2)])
def test_what_no_run_wrote_is_refused(other, tmp_path):
    torch.save(other, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="other.ckpt holds no state of a run"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "other.ckpt", weights_only=True)


def test_a_kill_before_the_move_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    before = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint(STATE | {"epoch": 4}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class SmallDisk(io.FileIO):
    """A file on a disk with room for 2 kB: torch's writer raises an error of its own over what the disk says."""

    def write(self, data):
        if self.tell() + len(data) > 2000:
            full()
        return super().write(data)


def full_as_torch_says_it(*_):
    raise RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed: file write failed")


@pytest.mark.parametrize(("place", "failure"), [("os.fsync", full), ("torch.save", full_as_torch_says_it)])
def test_a_full_disk_is_told_and_costs_nothing(tmp_path, monkeypatch, place, failure):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    before = path.read_bytes()
    monkeypatch.setattr(place, failure)
    with pytest.raises(UserError, match="could not be written .* is untouched"):
        AtomicCheckpointIO().save_checkpoint(STATE | {"epoch": 4}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_disk_that_is_full_amid_the_file_is_told_and_costs_nothing(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    before = path.read_bytes()
    monkeypatch.setattr(Path, "open", lambda path, mode: SmallDisk(path, mode))
    with pytest.raises(UserError, match=r"could not be written \(\[Errno 28\] No space left on device\)") as told:
        AtomicCheckpointIO().save_checkpoint(STATE | {"epoch": 4}, path)
    assert isinstance(told.value.__cause__, RuntimeError)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_an_error_of_another_kind_is_none_of_the_disk(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("a tensor that cannot be saved")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="cannot be saved"):
        AtomicCheckpointIO().save_checkpoint(STATE, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


def test_the_newest_complete_one_is_found_behind_those_cut_short(tmp_path):
    paths = [tmp_path / f"{name}.ckpt" for name in ("first", "second", "third")]
    for age, path in enumerate(paths):
        AtomicCheckpointIO().save_checkpoint(STATE, path)
        os.utime(path, (age, age))
    assert newest_complete(paths) == (paths[2], [])
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    os.utime(paths[2], (9, 9))
    assert not is_complete(paths[2])
    assert newest_complete(paths) == (paths[1], [paths[2]])
    assert newest_complete([]) == (None, [])
