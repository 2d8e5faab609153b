"""One tar: its samples found, its damage named, its index kept for as long as it is true."""

import errno
import gzip
import json
import os
import pickle
import tarfile

import numpy as np
import pytest

from datamodules import shard_index
from datamodules.decode import UnreadableError
from datamodules.errors import UserError
from datamodules.shard_index import indexed
from datamodules.shards import ShardIndex, read_place, scan, state_of
from tests.datamodules.tars import picture, sample, write_files, write_tar


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def keys(index: ShardIndex) -> list[str]:
    return [key.decode() for key in index.key]


def labels(index: ShardIndex) -> list:
    return [None if i < 0 else index.values[i] for i in index.label]


def contents(shard, index: ShardIndex) -> list[bytes]:
    places = zip(index.offset.tolist(), index.size.tolist(), strict=True)
    return [read_place(shard, state_of(shard), place, "x") for place in places]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_found_where_they_lie_in_every_dialect(tmp_path, form):
    long = "photos/" + "x" * 130 if form != tarfile.USTAR_FORMAT else "photos/x"
    samples = {f"{long}/a": sample(1, 7), f"{long}/grün": sample(2, "tree frog"), "b": sample(3)}
    shard = write_tar(tmp_path / "s.tar", samples, form)
    index = scan(shard)
    assert keys(index) == [f"{long}/a", f"{long}/grün", "b"] and labels(index) == [7, "tree frog", None]
    assert contents(shard, index) == [picture(1), picture(2), picture(3)] and not index.faults


def test_folders_links_and_what_a_mac_leaves_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "1.png").write_bytes(picture(1))
        (tmp_path / "d" / "._1.png").write_bytes(b"attributes")
        (tmp_path / "d" / "2.png").symlink_to("1.png")
        tar.add(tmp_path / "d", "./d")
    index = scan(tmp_path / "s.tar")
    assert keys(index) == ["./d/1"] and not index.faults


def test_upper_case_dots_in_names_and_files_that_are_apart(tmp_path):
    files = [("1.JPG", picture(1, "JPEG")), ("2.seg.png", b"mask"), ("2.jpg", picture(2, "JPEG")), ("1.cls", b"4\n")]
    shard = write_files(tmp_path / "s.tar", files)
    index = scan(shard)
    assert keys(index) == ["1", "2"] and labels(index) == [4, None]
    assert contents(shard, index) == [picture(1, "JPEG"), picture(2, "JPEG")]
    assert contents(shard, scan(shard, "seg.png")) == [b"mask"]


@pytest.mark.parametrize(
    ("files", "label"),
    [
        ({"cls": b"12"}, 12),
        ({"cls": b" 12\n"}, 12),
        ({"cls": b"-1"}, None),
        ({"cls": "Löwe".encode()}, "Löwe"),
        ({"json": b'{"label": 3, "width": 20}'}, 3),
        ({"json": b'{"label": "cat"}'}, "cat"),
        ({"json": b'{"label": "3"}'}, 3),
        ({"json": b'{"label": null}'}, None),
        ({"json": b'{"caption": "a cat"}'}, None),
        ({"json": b"5"}, 5),
        ({"json": b'{"label": 3}', "cls": b"4"}, 4),
        ({"txt": b"a cat"}, None),
    ],
    ids=str,
)
def test_labels_of_all_kinds(tmp_path, files, label):
    index = scan(write_tar(tmp_path / "s.tar", {"1": sample(1) | files}))
    assert labels(index) == [label] and not index.faults


def test_a_label_in_another_entry(tmp_path):
    shard = write_tar(tmp_path / "s.tar", {"1": sample(1, json=b'{"label": 3, "species": "newt"}')})
    assert labels(scan(shard, label_field="species")) == ["newt"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"cls": b""}, "its label is '', neither"),
        ({"cls": b"-7"}, "its label is '-7', neither a number from 0 on nor a name"),
        ({"cls": b"\xff\xfe"}, "utf-8"),
        ({"json": b'{"label": '}, "Expecting value"),
        ({"json": b"[" * 100_000}, "recursion"),
        ({"json": b'{"label": 1.5}'}, "its label is '1.5'"),
        ({"json": b'{"label": true}'}, "its label is 'True'"),
        ({"json": b'{"label": [1, 0]}'}, r"its label is '\[1, 0\]'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_sample_with_a_broken_label_is_left_out_and_named(tmp_path, files, reason):
    shard = write_tar(tmp_path / "s.tar", {"1": sample(1, 0), "2": sample(2) | files, "3": sample(3, 1)})
    index = scan(shard)
    assert keys(index) == ["1", "3"] and labels(index) == [0, 1]
    ((name, why),) = index.faults
    assert name == f"{shard}:2"
    with pytest.raises(ValueError, match=reason):
        raise ValueError(why)


def test_a_sample_without_a_picture_is_left_out_and_named(tmp_path):
    shard = write_tar(tmp_path / "s.tar", {"1": sample(1, 0), "notes": {"txt": b"hello", "cls": b"1"}})
    index = scan(shard)
    assert keys(index) == ["1"]
    assert index.faults == [(f"{shard}:notes", "it has no picture, only .cls, .txt")]


def test_several_pictures_need_a_choice(tmp_path):
    shard = write_tar(tmp_path / "s.tar", {"1": sample(1, jpg=picture(2, "JPEG"))})
    with pytest.raises(UserError, match=r"s.tar:1 has .png and .jpg: say which is the picture with --data.image_ext"):
        scan(shard)
    assert contents(shard, scan(shard, "jpg")) == [picture(2, "JPEG")]


def test_of_files_that_come_twice_the_last_counts_and_that_is_told(tmp_path):
    shard = write_files(tmp_path / "s.tar", [("1.png", picture(1)), ("1.cls", b"0"), ("1.png", picture(2))])
    index = scan(shard)
    assert contents(shard, index) == [picture(2)] and labels(index) == [0]
    assert [name for name, _ in index.faults] == [f"{shard}:1.png"]


def cut(shard, size: int) -> None:
    os.truncate(shard, size)


def ends(shard) -> list[int]:
    """Where each file of a tar begins with its header."""
    with tarfile.open(shard) as tar:
        return [member.offset for member in tar]


def test_whatever_is_cut_off_a_shard_what_is_left_is_used_and_the_damage_named(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", {str(i): sample(i, i % 2) for i in range(6)})
    headers = ends(whole)
    data = whole.read_bytes()
    shard = tmp_path / "s.tar"
    for size in (
        *range(headers[2], headers[-1] + 512, 512),
        *(h + extra for h in headers[2:] for extra in (1, 511, 600)),
    ):
        shard.write_bytes(data[:size])
        index = scan(shard)
        complete = sum(size >= header + 512 + 1 for header in headers[1::2])  # a label file is one byte
        assert keys(index) == [str(i) for i in range(complete)], size
        assert contents(shard, index) == [picture(i) for i in range(complete)]
        ((name, _),) = index.faults
        assert name.startswith(f"{shard} from byte ")


def test_a_damaged_header_amid_a_shard(tmp_path):
    shard = write_tar(tmp_path / "s.tar", {str(i): sample(i, i % 2) for i in range(6)})
    broken = bytearray(shard.read_bytes())
    at = ends(shard)[6]  # of the fourth sample's picture
    broken[at : at + 20] = b"\xff" * 20
    shard.write_bytes(broken)
    index = scan(shard)
    assert keys(index) == ["0", "1", "2"]
    assert index.faults == [(f"{shard} from byte {at} on", "what follows is no header of a file")]


@pytest.mark.parametrize(
    "size", [b"77777777777", b"\x80" + b"\x7f" * 11, b"\xff" * 12], ids=["large", "huge", "negative"]
)
def test_a_header_that_lies_about_the_size(tmp_path, size):
    shard = write_tar(tmp_path / "s.tar", {str(i): sample(i, 0) for i in range(3)})
    at = ends(shard)[4]
    broken = bytearray(shard.read_bytes())
    broken[at + 124 : at + 124 + len(size)] = size
    broken[at + 148 : at + 156] = b" " * 8
    broken[at + 148 : at + 156] = b"%06o\0 " % sum(broken[at : at + 512])
    shard.write_bytes(broken)
    index = scan(shard)
    assert keys(index) == ["0", "1"] and len(index.faults) == 1


@pytest.mark.parametrize("content", [b"", b"hello", os.urandom(5000)], ids=["nothing", "short", "noise"])
def test_no_tar_at_all(tmp_path, content):
    shard = tmp_path / "s.tar"
    shard.write_bytes(content)
    index = scan(shard)
    ((name, reason),) = index.faults
    assert not keys(index) and name == str(shard) and reason.startswith("it cannot be read as a tar (")


def test_a_shard_of_no_samples_is_none_of_a_fault(tmp_path):
    index = scan(write_tar(tmp_path / "s.tar", {}))
    assert not keys(index) and not index.faults


def test_a_compressed_tar_is_refused_whatever_it_is_called(tmp_path):
    shard = write_tar(tmp_path / "s.tar", {"1": sample(1)})
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    with pytest.raises(UserError, match=r"s.tar is compressed \(gzip\).*unpack it to a plain tar"):
        scan(shard)


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
    cut(shard, place[0] + 10)
    with pytest.raises(UnreadableError) as caught:
        read_place(shard, state, place, "two")
    assert (caught.value.name, caught.value.reason) == ("two", "the shard ends before it does")
    other = write_tar(tmp_path / "other.tar", {"1": sample(1)})
    with pytest.raises(UnreadableError, match="written anew"):
        read_place(other, state, place, "two")
    with pytest.raises(UnreadableError, match="No such file"):
        read_place(tmp_path / "gone.tar", state, place, "two")


def test_a_description_in_json_takes_no_part_in_the_labels_of_cls(tmp_path):
    meta = json.dumps({"label": "cat", "license": "x"}).encode()
    index = scan(write_tar(tmp_path / "s.tar", {"1": sample(1, 4, json=meta)}))
    assert index.values == [4]
