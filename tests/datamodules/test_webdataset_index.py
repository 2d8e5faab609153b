"""The index of a tar: kept for as long as it is true, and no picture is read by the places of an old one."""

import errno
import os
import pickle
import tarfile

import numpy as np
import pytest

from datamodules import shard_index
from datamodules.decode import UnreadableError
from datamodules.shard_index import indexed
from datamodules.shards import read_place, scan, state_of
from tests.datamodules.tars import keys, labels, picture, sample, write_tar


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_index_lies_beside_the_shard_and_is_used_while_the_shard_is_the_same(tmp_path, monkeypatch):
    shard = write_tar(tmp_path / "s.tar", {"1": sample(1, "cat"), "2": sample(2), "3": {"txt": b"x"}})
    made, new = indexed(shard)
    assert new and (tmp_path / "s.tar.index").is_file()
    monkeypatch.setattr(shard_index, "scan", None)
    kept, new = indexed(shard)
    assert not new and keys(kept) == ["1", "2"] and labels(kept) == ["cat", None] and kept.faults == made.faults
    assert np.array_equal(kept.offset, made.offset) and np.array_equal(kept.size, made.size)


def test_the_index_is_made_anew_where_it_would_not_be_true(tmp_path):
    shard = write_tar(tmp_path / "s.tar", {"1": sample(1, 0)})
    assert indexed(shard)[1] and not indexed(shard)[1]
    assert indexed(shard, label_field="species")[1]  # other settings
    assert indexed(shard)[1] and not indexed(shard)[1]
    stat = shard.stat()
    write_tar(shard, {"2": sample(2, 0)})
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert shard.stat().st_size == stat.st_size and keys(indexed(shard)[0]) == ["2"]


def _as_one_array(file):
    with file.open("wb") as opened:
        np.save(opened, np.arange(3))


def _as_pickle(file):
    file.write_bytes(pickle.dumps({"offset": [0]}))


def _with_places_beyond_the_shard(file):
    with np.load(file) as kept:
        columns = dict(kept)
    with file.open("wb") as opened:
        np.savez(opened, **(columns | {"size": columns["size"] + 10**9}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"nonsense"),
        lambda file: file.write_bytes(file.read_bytes()[:-60]),
        lambda file: file.write_bytes(b"PK\x03\x04" + os.urandom(500)),
        _as_one_array,
        _as_pickle,
        _with_places_beyond_the_shard,
    ],
)
def test_a_damaged_index_is_made_anew(tmp_path, damage):
    shard = write_tar(tmp_path / "s.tar", {"1": sample(1, 0)})
    indexed(shard)
    damage(tmp_path / "s.tar.index")
    index, new = indexed(shard)
    assert new and keys(index) == ["1"] and not indexed(shard)[1]


def test_where_the_folder_cannot_be_written_the_index_goes_to_the_cache_folder_or_nowhere(tmp_path, monkeypatch):
    shard = write_tar(tmp_path / "data" / "s.tar", {"1": sample(1, 0)})
    replace = type(shard).replace

    def refuse(self, target):
        if forbidden in target.parents:
            raise PermissionError
        return replace(self, target)

    monkeypatch.setattr(type(shard), "replace", refuse)
    forbidden = tmp_path
    assert indexed(shard)[1] and indexed(shard)[1]
    forbidden = tmp_path / "data"
    assert indexed(shard)[1] and not indexed(shard)[1]
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["s.tar"]
    assert len(list((tmp_path / "cache" / "parallax" / "shards").iterdir())) == 1


def test_an_index_that_a_failing_disk_cut_short_is_not_kept(tmp_path, monkeypatch):
    shard = write_tar(tmp_path / "a.tar", {str(i): sample(i, 0) for i in range(4)})
    after, read = iter([None] * 5), tarfile.TarFile.next

    def failing(tar):
        if next(after, "gone") == "gone":
            raise OSError(errno.EIO, "Input/output error")
        return read(tar)

    with monkeypatch.context() as once:
        once.setattr(tarfile.TarFile, "next", failing)
        short, _ = indexed(shard, None, "label")
    assert 0 < len(short.offset) < 4 and "Input/output error" in short.faults[0].reason
    whole, new = indexed(shard, None, "label")
    assert new and len(whole.offset) == 4 and not whole.faults


def test_the_faults_of_a_shard_that_was_moved_are_named_by_its_new_place(tmp_path):
    shard = write_tar(tmp_path / "a" / "s.tar", {"1": sample(1), "2": {"txt": b"x"}})
    indexed(shard)
    (tmp_path / "a").rename(tmp_path / "b")
    index, new = indexed(tmp_path / "b" / "s.tar")
    assert not new and index.faults[0].name == f"{tmp_path}/b/s.tar:2"


def test_a_shard_that_is_written_anew_or_cut_or_gone_is_not_read_by_old_places(tmp_path):
    shard = write_tar(tmp_path / "s.tar", {"1": sample(1), "2": sample(2)})
    state = state_of(shard)
    index = scan(shard)
    place = int(index.offset[1]), int(index.size[1])
    assert read_place(shard, state, place, "two") == picture(2)
    os.truncate(shard, place[0] + 10)
    with pytest.raises(UnreadableError) as caught:
        read_place(shard, state, place, "two")
    assert (caught.value.name, caught.value.reason) == ("two", "the shard ends before it does")
    other = write_tar(tmp_path / "other.tar", {"1": sample(1)})
    with pytest.raises(UnreadableError, match="written anew"):
        read_place(other, state, place, "two")
    with pytest.raises(UnreadableError, match="No such file"):
        read_place(tmp_path / "gone.tar", state, place, "two")
