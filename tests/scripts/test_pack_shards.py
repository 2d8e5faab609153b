"""Data sets as tar shards: nothing lost, nothing changed, and nothing half done."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import CIFAR10, HFImages, ImageFolder, WebDataset
from datamodules.shards import scan
from scripts import pack_shards
from scripts.pack_shards import main, parsed_size, run
from tests.datamodules.toys import Stereo, Toy, write_picture


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rows_of(source) -> dict[int, int]:
    """Row of a shard's source by the number that its key is."""
    return {int(source.name(i).rpartition(":")[2]): i for i in range(len(source))}


def assert_same_images(packed, original) -> None:
    rows = rows_of(packed)
    assert sorted(rows) == list(range(len(original)))
    for i, row in rows.items():
        assert torch.equal(packed.image(row), original.image(i)), i
        assert packed.labels[row] == original.labels[i]
    assert packed.class_names == original.class_names


@pytest.fixture
def pictures(tmp_path):
    """Folders of two classes in formats of all kinds, with a file that is broken."""
    for i, kind in enumerate(["jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "jpg"]):
        write_picture(tmp_path / "p" / "train" / ("cat", "dog")[i % 2] / f"{i}.{kind}", (20 + i, 18), seed=i)
    for i in range(3):
        write_picture(tmp_path / "p" / "val" / ("cat", "dog")[i % 2] / f"{i}.png", seed=50 + i)
    Image.new("P", (9, 9)).save(tmp_path / "p" / "train" / "cat" / "wrongly_named.jpg", "PNG")
    (tmp_path / "p" / "train" / "dog" / "broken.jpg").write_bytes(b"nothing")
    return tmp_path / "p"


def test_files_keep_their_bytes_and_broken_ones_are_left_out(pictures, tmp_path, run_script, caplog):
    told, code = run_script(main, "--data", "ImageFolder", "--data.path", pictures, "--out", "shards")
    assert code == 0, told
    assert "train: 9 pictures in 1 shard," in told and "val: 3 pictures in 1 shard," in told
    assert caplog.messages[0].startswith(f"Skipped {pictures}/train/dog/broken.jpg: ")
    originals = ImageFolder(str(pictures)).sources()
    packed = WebDataset(str(tmp_path / "shards")).sources()
    for ours, theirs in zip(packed, originals, strict=True):
        for i, row in rows_of(ours).items():
            assert ours.encoded(row) == theirs.encoded(i) and ours.labels[row] == theirs.labels[i]
        assert ours.class_names == theirs.class_names == ["cat", "dog"]
    assert len(packed[0]) == 9 and len(packed[1]) == 3
    with tarfile.open(tmp_path / "shards" / "train-000000.tar") as tar:
        kinds = [member.name.partition(".")[2] for member in tar]
    assert sorted(kinds) == ["bmp", *["cls"] * 9, "gif", "jpg", "jpg", "png", "png", "ppm", "tif", "webp"]


def test_pixels_survive(tmp_path):
    run(Toy(num_images=30), tmp_path / "shards", parsed_size("7"), shuffle=True)
    packed = WebDataset(str(tmp_path / "shards")).sources()
    for ours, theirs in zip(packed, Toy(num_images=30).sources(), strict=True):
        assert_same_images(ours, theirs)
    assert len(list((tmp_path / "shards").glob("train-*.tar"))) == 5
    assert [key.decode() for key in scan(tmp_path / "shards" / "val-000001.tar").key] == [
        f"{i:09}" for i in range(7, 14)
    ]


def test_cifar_in_parquet_comes_back_as_it_was(synthetic, tmp_path):
    original = CIFAR10(str(synthetic))
    run(original, tmp_path / "shards", parsed_size("8"), shuffle=True)
    for ours, theirs in zip(WebDataset(str(tmp_path / "shards")).sources(), original.sources(), strict=True):
        assert_same_images(ours, theirs)
        assert all(ours.encoded(row) == theirs.encoded(i) for i, row in rows_of(ours).items())
    _, val = HFImages(str(synthetic / "cifar10")).sources()
    assert val.encoded(3) == original.sources()[1].encoded(3)


def test_training_pictures_are_mixed_the_same_in_every_packing_or_kept_in_order(tmp_path):
    for name, shuffle in (("a", True), ("b", True), ("c", False)):
        run(Toy(), tmp_path / name, parsed_size("100"), shuffle)
    a, b, c = ((tmp_path / name / "train-000000.tar").read_bytes() for name in "abc")
    assert a == b != c
    keys = {name: [int(key) for key in scan(tmp_path / name / "train-000000.tar").key] for name in "ac"}
    assert keys["c"] == list(range(40)) != keys["a"]
    assert [int(key) for key in scan(tmp_path / "a" / "val-000000.tar").key] == list(range(20))


def test_shards_are_as_large_as_was_asked_and_have_their_index(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 100, 3), dtype=np.uint8)
    for i, image in enumerate(noise):
        (tmp_path / "p").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "p" / f"{i}.png")
    run(ImageFolder(str(tmp_path / "p"), val_fraction=0.05), tmp_path / "s", parsed_size("1MB"), shuffle=True)
    shards = sorted((tmp_path / "s").glob("train-*.tar"))
    assert len(shards) == 2 and 1e6 <= shards[0].stat().st_size < 1.05e6
    assert all(shard.with_name(f"{shard.name}.index").is_file() for shard in shards)
    assert not (tmp_path / "s" / "classes.json").exists() and not list((tmp_path / "s").glob("*.cls"))


@pytest.mark.parametrize(("given", "limit"), [("500", (500, np.inf)), ("20MB", (np.inf, 2e7)), ("1gb", (np.inf, 1e9))])
def test_sizes(given, limit):
    assert parsed_size(given) == limit


def test_subsets_of_the_flags_are_kept_to(tmp_path):
    run(Toy(max_train_images=9, max_val_images=4), tmp_path / "s", parsed_size("5"), shuffle=False)
    train, val = WebDataset(str(tmp_path / "s")).sources()
    assert len(train) == 9 and len(val) == 4


def test_what_was_killed_is_neither_taken_for_shards_nor_in_the_way(tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    remains = tmp_path / "s" / pack_shards.UNFINISHED
    with monkeypatch.context() as patched:
        patched.setattr(pack_shards.shutil, "rmtree", lambda *_, **__: None)  # as if the machine had gone down
        patched.setattr(pack_shards.FaultReport, "summarize", die)
        with pytest.raises(KeyboardInterrupt):
            run(Toy(), tmp_path / "s", parsed_size("5"), shuffle=True)
    assert len(list(remains.glob("*.tar"))) == 8 and list((tmp_path / "s").iterdir()) == [remains]
    with pytest.raises(pack_shards.UserError, match="There are no shards"):
        WebDataset(str(tmp_path / "s")).sources()
    run(Toy(), tmp_path / "s", parsed_size("100"), shuffle=True)
    assert not remains.exists() and len(list((tmp_path / "s").glob("train-*.tar"))) == 1


def test_an_empty_folder_that_is_there_is_filled_and_stays(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    inode = (tmp_path / "disk").stat().st_ino
    run(Toy(), tmp_path / "link", parsed_size("100"), shuffle=True)
    assert (tmp_path / "disk").stat().st_ino == inode and (tmp_path / "link").is_symlink()
    assert len(list((tmp_path / "disk").glob("*.tar"))) == 2
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run(Toy(), Path("."), parsed_size("100"), shuffle=True)
    assert len(WebDataset(str(tmp_path / "here")).sources()[0]) > 0


def test_nothing_is_left_where_the_disk_is_full(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack_shards.ShardWriter, "_put", full)
    with pytest.raises(pack_shards.UserError, match=r"--out .*s cannot be written \(No space left on device\)"):
        run(Toy(), tmp_path / "s", parsed_size("5"), shuffle=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Stereo(), "stereo.* has 2 channels; shards hold pictures, of 1 or 3"),
        (Toy(bad=set(range(40))), "None of 40 train pictures can be read"),
        (Toy(bad={3}, unreadable="stop"), "picture 3 cannot be read: it is broken"),
    ],
)
def test_what_cannot_be_packed(data, message, tmp_path):
    with pytest.raises(pack_shards.UserError, match=message):
        run(data, tmp_path / "s", parsed_size("5"), shuffle=True)
    assert not list(tmp_path.iterdir())


DIGITS = ("--data", "Digits")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "s"), "--data missing: give for example --data CIFAR10"),
        (DIGITS, "--out missing"),
        ((*DIGITS, "--out", "s", "--shard-size", "0"), "--shard-size 0 must be a number of pictures, 10000, or a size"),
        ((*DIGITS, "--out", "s", "--shard-size", "5TB"), "--shard-size 5TB must be"),
        ((*DIGITS, "--out", "full"), "--out full is there already and not empty"),
        ((*DIGITS, "--out", "full/file"), "--out full/file is there already"),
        (("--data", "ImageFolder", "--data.path", "nodir", "--out", "s"), "There is no nodir, here or below"),
    ],
)
def test_what_can_be_mended_is_said_in_a_sentence(words, message, run_script, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    told, code = run_script(main, *words)
    assert code == 2 and told.startswith("error: ") and message in told and told.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_digits_become_grey_pictures(tmp_path, run_script):
    told, code = run_script(
        main, *DIGITS, "--data.max_train_images", 50, "--out", "s", "--shard-size", "30", "--shuffle", "false"
    )
    assert code == 0 and "train: 50 pictures in 2 shards" in told and "--data WebDataset --data.path s" in told
    assert json.loads(Path("s/classes.json").read_text()) == list("0123456789")
    packed = WebDataset("s").sources()[0]
    assert packed.name(7).endswith("train-000000.tar:000000007")
    with Image.open(io.BytesIO(packed.encoded(0))) as picture:
        assert picture.mode == "L"
