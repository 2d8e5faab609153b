"""The table of label shares, on a network and data of seconds."""

import json
import sys
from pathlib import Path

import pytest

from scripts.evaluating import record
from scripts.label_efficiency import Bench, Cell, main

SMALL = (
    *("--fractions", "0.05", "0.2", "--seeds", "0", "1", "--steps", "4", "--batch_size", "16"),
    *("--max_images", "400", "--data.max_val_images", "60"),
)


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["label_efficiency.py", *map(str, words)])
    main()


def results(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A folder of its own for results."""
    monkeypatch.setattr(record, "ROOT", folder)
    (folder / "results").mkdir()
    return folder / "results"


def test_a_table_of_both_starts(digits_checkpoint, monkeypatch, tmp_path, capsys):
    results(monkeypatch, tmp_path)
    run(monkeypatch, digits_checkpoint, *SMALL, "--lrs", "0.001", "0.01", "--name", "labels")
    text = capsys.readouterr().out
    assert "24/24" in text and "SimCLR" in text and "gain" in text
    found = json.loads((tmp_path / "results" / "labels.json").read_text())
    cells = [Cell(**cell) for cell in found["cells"]]
    assert [(cell.start, cell.fraction) for cell in cells] == [
        (start, share) for share in (0.05, 0.2) for start in ("scratch", "pretrained")
    ]
    for cell in cells:
        assert len(cell.accuracy) == 2 and all(0 <= value <= 1 for value in cell.accuracy)
        assert cell.lr == max((0.001, 0.01), key=lambda lr: found_at(cell, lr))
        assert cell.images == pytest.approx(400 * cell.fraction, abs=5)
    assert "4 steps of up to 16 images" in found["protocol"] and "held out" in found["protocol"]
    assert str(Path(digits_checkpoint)) not in json.dumps(found)


def found_at(cell: Cell, lr: float) -> float:
    return cell.held_out[str(lr)]  # pyright: ignore[reportArgumentType] - JSON has no keys but strings


def test_means_and_spreads():
    assert str(Cell("scratch", 0.1, 10, {}, 1e-3, [0.5, 0.6, 0.7])) == "60.0 ± 10.0"
    assert str(Cell("scratch", 0.1, 10, {}, 1e-3, [0.5])) == "50.0"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fractions", "2"], "--fractions"),
        (["--steps", "0"], "--steps 0"),
        (["--seeds", "-1"], "--seeds -1: a seed is a whole number from 0"),
        (["--lrs", "0"], "above 0"),
        (["--name", "a/b"], "--name 'a/b' becomes a file of results/"),
        (["--fractions", "0.01", "--max_images", "100"], "--fractions 0.01 leaves 10 images of 10 classes"),
        (["--metric", "top3"], "metric"),
    ],
)
def test_mistakes_are_told_in_a_sentence(digits_checkpoint, monkeypatch, capsys, words, told):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, digits_checkpoint, *words)
    assert stop.value.code == 2
    assert told in capsys.readouterr().err


def test_a_share_too_small_to_choose_on_is_told_before_the_first_run(digits_checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(Bench, "run", lambda *_: pytest.fail("a run began"))
    with pytest.raises(SystemExit):
        run(monkeypatch, digits_checkpoint, "--fractions", "1", "0.01", "--max_images", "100")
    assert "give one rate, as --lrs 1e-3, or a larger share" in capsys.readouterr().err


def test_what_is_done_is_kept_and_not_replaced_unasked(digits_checkpoint, monkeypatch, tmp_path, capsys):
    file, done = results(monkeypatch, tmp_path) / "labels.json", []

    def cell(self: Bench, start: str, fraction: float) -> Cell:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(Cell(start, fraction, 10, {}, 1e-3, [0.5]))
        return done[-1]

    monkeypatch.setattr(Bench, "cell", cell)
    with pytest.raises(SystemExit):
        run(monkeypatch, digits_checkpoint, *SMALL, "--name", "labels")
    assert [Cell(**kept) for kept in json.loads(file.read_text())["cells"]] == done
    with pytest.raises(SystemExit):
        run(monkeypatch, digits_checkpoint, *SMALL, "--name", "labels")
    assert "results/labels.json is there already: add --overwrite" in capsys.readouterr().err and len(done) == 3
    done.clear()
    with pytest.raises(SystemExit):
        run(monkeypatch, digits_checkpoint, *SMALL, "--name", "labels", "--overwrite")
    assert len(done) == 3
