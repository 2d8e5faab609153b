"""One tar: its samples found, its labels read, its damage named."""

import gzip
import json
import os
import tarfile

import pytest

from datamodules.errors import UserError
from datamodules.shards import scan
from tests.datamodules.tars import contents, keys, labels, picture, sample, write_files, write_tar


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


def test_a_description_in_json_takes_no_part_in_the_labels_of_cls(tmp_path):
    meta = json.dumps({"label": "cat", "license": "x"}).encode()
    index = scan(write_tar(tmp_path / "s.tar", {"1": sample(1, 4, json=meta)}))
    assert index.values == [4]


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
