"""Masks of a whole data set, as a user makes them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import UserError
from datamodules.masks import MaskedSource, read_header
from datamodules.saliency import saliency, to_mask
from scripts.precompute_saliency import main, run
from tests.datamodules.toys import Stereo, Toy

ROOT = Path(__file__).parents[2]


def half(image: np.ndarray) -> np.ndarray:
    """A method of the user's own: the left half."""
    return np.repeat((np.arange(image.shape[1]) < image.shape[1] // 2)[None], len(image), axis=0).astype(float)


def test_every_image_gets_the_mask_of_the_method(tmp_path, capsys):
    out = tmp_path / "masks.bin"
    run(Toy(bad={7}), out, None, saliency, workers=0)
    source = Toy().sources()[0]
    joined = MaskedSource(source, str(out))
    for i in range(40):
        want = np.ones((32, 32)) if i == 7 else to_mask(saliency(source.image(i).permute(1, 2, 0).numpy()), 32)
        found = np.unpackbits(joined._bits[i]).reshape(32, 32)
        assert np.array_equal(found, want), i
    _, header = read_header(str(out))
    assert (header.data, header.method, header.side) == ("Toy", "datamodules.saliency.ensemble.saliency", 32)
    told = capsys.readouterr().out
    assert "40/40 images" in told and "40 masks of 32x32" in told and f"{header.usable:.1%} usable" in told


def test_two_runs_write_the_same_bytes(tmp_path):
    for workers in (0, 2):
        run(Toy(num_images=150), tmp_path / str(workers), None, saliency, workers)
    assert (tmp_path / "0").read_bytes() == (tmp_path / "2").read_bytes()


def test_large_images_get_larger_masks_and_subsets_change_nothing(tmp_path):
    run(Toy(image_size=224, max_train_images=10), tmp_path / "m", None, half, workers=0)
    _, header = read_header(str(tmp_path / "m"))
    assert (header.side, header.count, header.foreground) == (56, 40, 0.5)


def test_a_montage_shows_sixteen_images(tmp_path):
    run(Toy(), None, tmp_path / "m.png", half, workers=0)
    shown = np.asarray(Image.open(tmp_path / "m.png"))
    assert shown.shape == (8 * 96, 2 * 4 * 96, 3)
    mask = shown[:96, 192:288]
    assert (mask[:, :36] == 255).all() and (mask[:, 60:] == 0).all()


def test_a_montage_shows_the_next_picture_for_one_that_cannot_be_read(tmp_path):
    run(Toy(bad={0, 1, 39}), None, tmp_path / "bad.png", half, workers=0)
    shown = np.asarray(Image.open(tmp_path / "bad.png"))
    assert shown.shape == (8 * 96, 2 * 4 * 96, 3)
    want = Toy().sources()[0].image(2).permute(1, 2, 0).numpy()
    first, last = shown[:96:6, :96:6], shown[-96::6, 4 * 96 : 5 * 96 : 6]
    assert np.array_equal(first, want) and np.array_equal(last, want)


def broken(image: np.ndarray) -> np.ndarray:
    raise KeyError("weights")


@pytest.mark.parametrize(
    ("data", "method", "message"),
    [
        (Stereo(), saliency, "have 2 channels"),
        (Toy(), lambda image: image[..., 0] / 100, r"16x16 picture came out as \(16, 16\) with values from"),
        (Toy(), lambda image: half(image)[:4], r"came out as \(4, 16\)"),
        (Toy(), lambda image: half(image).tolist(), "came out as list: --saliency must return an array"),
        (Toy(), broken, "test_precompute_saliency.broken fails on a picture with KeyError: 'weights'"),
        (Toy(bad=set(range(40))), saliency, "None of the training images can be read"),
    ],
)
def test_what_has_no_saliency_is_refused_before_the_long_run(data, method, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(data, tmp_path / "m", None, method, workers=0)
    assert not list(tmp_path.iterdir())


DIGITS = ["--data", "Digits"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (DIGITS, "Nothing to do: give --out FILE"),
        ([*DIGITS, "--out", "m", "--saliency", "nowhere.model"], "--saliency nowhere.model cannot be imported (No mod"),
        ([*DIGITS, "--out", "m", "--saliency", "model"], "--saliency model cannot be imported"),
        ([*DIGITS, "--out", "m", "--saliency", "os.path"], "--saliency os.path is a module, no function"),
        (
            [*DIGITS, "--out", "m", "--saliency", "json.dumps"],
            "--saliency json.dumps fails on a picture with TypeError",
        ),
        ([*DIGITS, "--out", "nodir/m"], "--out nodir/m: there is no folder nodir to write to"),
        ([*DIGITS, "--out", "."], "--out . is a folder"),
        ([*DIGITS, "--montage", "nodir/m.png"], "--montage nodir/m.png: there is no folder nodir"),
        ([*DIGITS, "--montage", "m.xyz"], "--montage m.xyz must end in .png"),
        ([*DIGITS, "--out", "m", "--workers", "-1"], "--workers -1 must be 0"),
        ([*DIGITS, "--out", "m", "--workers", "x"], "workers is x; allowed is one of: int, null"),
        (
            ["--data", "CIFAR1", "--out", "m"],
            "'CIFAR1' is none of the data modules that are known here. Did you mean 'C",
        ),
        ([*DIGITS, "--data.canvs_size", "18"], "'canvs_size' is no option of Digits. Did you mean 'canvas_size'?"),
        (["--data.batch_size", "8", *DIGITS], "--data.batch_size needs its class first: --data NAME before it."),
        (
            ["--data", "ImageDataModule"],
            "'ImageDataModule' is none of the data modules that are known here. Did you",
        ),
        (["--out", "m"], "--data missing: give for example --data CIFAR10"),
        (["--data", "ImageFolder", "--out", "m"], "--data.path missing: ImageFolder needs it"),
        (["--data", "ImageFolder", "--data.path", "nodir", "--out", "m"], "There is no nodir, here or below"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_be_mended_is_said_in_a_sentence(flags, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["precompute_saliency.py", *flags])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr()
    assert stopped.value.code == 2 and told.err.startswith(f"error: {message}")
    assert told.err.count("\n") == 1 and not told.out
    assert not list(tmp_path.iterdir())


@pytest.mark.process
def test_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text("def all_of(image):\n    return image[..., 0] / 255\n")

    def command(*flags: str) -> subprocess.CompletedProcess:
        script = str(ROOT / "scripts" / "precompute_saliency.py")
        return subprocess.run([sys.executable, script, *flags], cwd=tmp_path, capture_output=True, text=True)

    flags = ("--data", "Digits", "--data.canvas_size", "18", "--saliency", "mine.all_of", "--workers", "0")
    done = command(*flags, "--out", "masks.bin")
    assert done.returncode == 0, done.stderr
    _, header = read_header(str(tmp_path / "masks.bin"))
    assert (header.data, header.method) == ("Digits", "mine.all_of")
