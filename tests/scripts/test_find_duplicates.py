"""Pictures that repeat others: found, grouped, listed, shown."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from datamodules import ImageFolder
from datamodules.augment import CleanView
from datamodules.errors import UserError
from datamodules.image_folder import FileSource
from datamodules.sources import ArraySource
from scripts.checkup.duplicates import Found, largest_of, thumbnails
from scripts.checkup.pairs import cosines, groups_of
from scripts.find_duplicates import draw, main, write_list


def naive_groups(features: torch.Tensor, threshold: float) -> list[int]:
    """By the whole matrix, and a search from each row."""
    like = (features @ features.T >= threshold).tolist()
    group = list(range(len(features)))
    for start in range(len(features)):
        if group[start] != start:
            continue
        front = [start]
        while front:
            row = front.pop()
            for other in range(len(features)):
                if like[row][other] and group[other] == other and other > start:
                    group[other] = start
                    front.append(other)
    return group


@pytest.mark.parametrize("block", [1, 7, 16, 1000])
def test_groups_by_blocks_equal_those_of_all_pairs(block):
    centres = F.normalize(torch.randn(12, 8), dim=1)
    features = F.normalize(centres[torch.randint(12, (61,))] + 0.12 * torch.randn(61, 8), dim=1)
    wanted = naive_groups(features, 0.95)
    assert 12 < len(set(wanted)) < 50  # chains, pairs and loners
    assert groups_of(features, 0.95, block).tolist() == wanted


def test_rows_of_zeros_are_like_nothing_and_one_threshold_takes_equals():
    features = F.normalize(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]), dim=1)
    assert groups_of(features, 0.999999).tolist() == [0, 1, 2, 1]


def test_cosines_with_the_row_that_is_named():
    features = F.normalize(torch.randn(5, 3), dim=1)
    other = np.array([0, 0, 1, 4, 4])
    wanted = [float(features[i] @ features[j]) for i, j in enumerate(other)]
    assert cosines(features, other).tolist() == pytest.approx(wanted, abs=1e-6)


def test_thumbnails_forget_brightness_and_contrast():
    image = torch.rand(1, 3, 64, 64)
    near = F.cosine_similarity(thumbnails(image), thumbnails(0.5 * image + 0.2))
    assert float(near) == pytest.approx(1.0, abs=1e-5)


def test_the_largest_file_of_a_group_stays(tmp_path):
    for name, size in (("a", 3), ("b", 9), ("c", 5), ("d", 9), ("e", 1)):
        (tmp_path / f"{name}.png").write_bytes(b"x" * size)
    group = np.array([0, 0, 2, 0, 2])
    assert largest_of(group, FileSource(tmp_path)).tolist() == [1, 1, 2, 1, 2]  # b before d, which is as large


def smooth(count: int) -> np.ndarray:
    """[N, 96, 96, 3] uint8: patterns as coarse as what is most of a photograph."""
    coarse = torch.randn(count, 3, 3, 3, generator=torch.Generator().manual_seed(5)) * 2 / 3
    pixels = 0.5 + 0.25 * F.interpolate(coarse, 96, mode="bilinear")
    return pixels.clamp(0, 1).mul(255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """24 pictures of two classes, three planted repeats, and a broken file."""
    root = tmp_path_factory.mktemp("pictures")
    pixels = smooth(24)
    for i, image in enumerate(pixels):
        folder = root / "xy"[i % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02}.png")
    first = Image.fromarray(pixels[4])
    first.save(root / "x" / "04_again.jpg", quality=50)
    first.crop((1, 1, 95, 95)).resize((80, 80)).save(root / "y" / "04_cropped.png")
    Image.fromarray((0.7 * pixels[7]).astype(np.uint8)).save(root / "y" / "07_darker.png")
    (root / "x" / "broken.png").write_bytes(b"nothing")
    return root


def command(monkeypatch, folder: Path, *flags: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["find_duplicates.py", *flags])
    main()


def test_planted_repeats_are_found_and_the_list_is_one_of_image_folder(pictures, tmp_path, monkeypatch, capsys):
    flags = ("--data", "ImageFolder", "--data.path", str(pictures), "--data.image_size", "96")
    command(monkeypatch, tmp_path, *flags, "--out", "unique.txt", "--sheet", "groups.png")
    told = capsys.readouterr().out
    assert "3 of 27 pictures (11.1%) repeat another, by 16x16 grey thumbnails (no --checkpoint given)" in told
    assert "left out: " in told and "broken.png" in told
    assert "1 of them have another label" in told
    source = FileSource(tmp_path / "unique.txt")
    wanted = sorted(path.resolve() for path in pictures.rglob("??.png"))
    assert sorted(Path(source.name(i)).resolve() for i in range(len(source))) == wanted
    assert source.class_names == ["x", "y"]
    assert all(Path(source.name(i)).parent.name == "xy"[int(source.labels[i])] for i in range(len(source)))
    train, val = ImageFolder(str(tmp_path / "unique.txt")).sources()
    assert len(train) + len(val) == 24
    with Image.open(tmp_path / "groups.png") as sheet:
        assert sheet.width > 300


def test_pictures_without_classes_are_listed_without_labels(tmp_path, monkeypatch, capsys):
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        noise = np.random.default_rng(i % 3).integers(0, 255, (16, 16), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "pictures" / f"{i}.png")
    flags = ("--data", "ImageFolder", "--data.path", "pictures", "--data.image_size", "64", "--keep", "largest")
    command(monkeypatch, tmp_path, *flags, "--out", "unique.txt")
    assert (tmp_path / "unique.txt").read_text() == "pictures/0.png\npictures/1.png\npictures/2.png\n"
    assert "label" not in capsys.readouterr().out


def test_other_data_get_rows_and_the_features_of_a_checkpoint(digits_checkpoint, tmp_path, monkeypatch, capsys):
    flags = ("--checkpoint", str(digits_checkpoint), "--threshold", "0.995", "--data.max_train_images", "200")
    command(monkeypatch, tmp_path, *flags, "--out", "rows.txt", "--sheet", "groups.png")
    told = capsys.readouterr().out
    assert "by the features of SimCLR" in told and "as Digits has no files to list" in told
    rows = [int(line) for line in (tmp_path / "rows.txt").read_text().split()]
    repeated = int(told.split(" of 200 pictures")[0].splitlines()[-1])
    assert len(rows) == 200 - repeated and rows == sorted(set(rows))
    assert (tmp_path / "groups.png").exists() == (repeated > 0)


def test_the_sheet_begins_with_what_is_in_doubt():
    source = ArraySource(torch.zeros(6, 3, 8, 8, dtype=torch.uint8), torch.zeros(6).long(), None, "toy")
    kept = np.array([0, 0, 2, 2, 4, 4])
    found = Found(np.ones(6, dtype=bool), kept, np.array([1, 0.99, 1, 0.97, 1, 0.98]))
    figure = draw(found, source, CleanView(8, [0.0] * 3, [1.0] * 3), "x")
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [word for word in words if word.startswith("0.")] == ["0.970", "0.980", "0.990"]


def test_a_name_that_a_line_cannot_hold_is_refused(tmp_path):
    (tmp_path / "a\tb.png").write_bytes(b"x")
    with pytest.raises(UserError, match="no tabs: rename it"):
        write_list(tmp_path / "list.txt", FileSource(tmp_path), np.array([0]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--data missing: give for example --data ImageFolder --data.path FOLDER."),
        (["--data", "Digits", "--threshold", "2"], "--threshold 2 must lie above 0 and be at most 1"),
        (["--data", "Digits", "--out", "nowhere/x.txt"], "--out nowhere/x.txt: there is no folder nowhere"),
        (["--data", "Digits", "--out", "."], "--out . is a folder"),
        (["--data", "Digits", "--sheet", "x.jpg"], "--sheet x.jpg must end in .png."),
        (["--data", "Digits", "--keep", "largest"], "--keep largest compares files, and Digits has none"),
        (["--data", "Digits", "--keep", "best"], "keep"),
        (["--data", "Digits", "--checkpoint", "none.ckpt"], "none.ckpt"),
        (["--data", "ImageFolder", "--data.path", "nodir"], "There is no nodir, here or below"),
    ],
)
def test_what_can_be_mended_is_said_in_a_sentence(flags, message, monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, tmp_path, *flags)
    told = capsys.readouterr()
    assert stopped.value.code == 2 and told.err.startswith("error: ") and message in told.err
    assert told.err.count("\n") == 1 and not list(tmp_path.iterdir())
