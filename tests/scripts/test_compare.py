"""Runs side by side."""

import os
import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scripts.compare import main
from scripts.look.columns import COLUMNS, by
from scripts.look.page import build_page
from scripts.look.runs import differences, flat, names_of, read_runs
from tests.support.runs import write_run

SIMCLR = {"class_path": "methods.SimCLR", "init_args": {"temperature": 0.1}}


@pytest.fixture
def compare(run_script):
    """Runs the command in an empty folder; returns what it printed, and its exit status."""
    return partial(run_script, main)


def three(folder: Path) -> list[Path]:
    """A run that is done, a better one that was stopped, and one that is still going."""
    going = write_run(folder / "going" / "version_0", epochs=1, summary={})
    os.utime(going, (1, 1))
    for path in going.iterdir():
        os.utime(path, (1, 1))
    stopped = {"stopped_by": "KeyboardInterrupt"}
    return [
        write_run(folder / "done" / "version_0", knn=0.5),
        write_run(folder / "better" / "version_0", knn=0.75, summary=stopped, config={"seed_everything": 3}),
        going,
    ]


def test_a_table_of_what_runs_came_to(compare, tmp_path):
    told, status = compare(*three(tmp_path))
    assert status == 0
    lines = [re.split(r"\s{2,}", line.strip()) for line in told.splitlines()]
    assert lines[0] == [column.head for column in COLUMNS.values()]
    shared = ["SimCLR", "convnet", "Digits"]
    assert lines[1][:-1] == ["done", *shared, "3", "50.0 %", "25.0 %", "3", "800", "1 min 40 s"]
    assert lines[1][-1] == "alive: std 0.28"
    assert lines[2][-1] == "stopped by KeyboardInterrupt; alive: std 0.28"
    assert lines[3][:8] == ["going", *shared, "1", "50.0 %", "25.0 %", "5"] and lines[3][8:10] == ["-", "-"]
    assert re.fullmatch(r"no summary; last wrote \d+ d \d\d h ago", lines[3][10])
    assert "kNN: cosine, k 20." in told
    assert lines[-2:] == [["differs", "done", "better", "going"], ["seed_everything", "-", "3", "-"]]


def test_sorting_puts_the_best_first_and_the_unknown_last(tmp_path):
    runs = read_runs(three(tmp_path))
    assert [run.name for run in by(runs, None)] == ["done", "better", "going"]
    assert [run.name for run in by(runs, "knn")] == ["better", "done", "going"]
    assert [run.name for run in by(runs, "images/s")][-1] == "going"
    assert [run.name for run in by(runs, "loss")] == ["done", "better", "going"]
    assert [run.name for run in by(runs, "run")] == ["better", "done", "going"]


def test_what_is_broken_is_shown_as_such(tmp_path):
    folder = write_run(tmp_path / "cut")
    (folder / "summary.json").write_text('{"step": 3')
    with (folder / "metrics.csv").open("a") as file:
        file.write("3,37,4.")  # as it is while a line is being written
    (run,) = read_runs([folder])
    assert run.state.startswith("no summary; last wrote ") and run.epochs == 4
    (folder / "metrics.csv").unlink()
    (folder / "config.yaml").unlink()
    (run,) = read_runs([folder])
    assert [column.text(run) for column in list(COLUMNS.values())[1:-1]] == ["-"] * 9


def test_differences_name_classes_and_leave_out_what_is_inside_a_missing_one(tmp_path):
    def knn(k):
        return {"class_path": "callbacks.KNNMonitor", "init_args": {"k": [k]}}

    probe = {"class_path": "callbacks.OnlineLinearProbe", "init_args": {"lr": 0.1}}
    configs = [
        {"trainer": {"callbacks": [knn(20)], "default_root_dir": "x"}, "data": {"init_args": {"views": "byol"}}},
        {
            "trainer": {"callbacks": [probe, knn(5)], "default_root_dir": "y"},
            "data": {"init_args": {"views": [{"size": 20}]}},
        },
    ]
    for config in configs:
        config["data"]["class_path"] = "Digits"
    runs = read_runs([write_run(tmp_path / str(i), config=config) for i, config in enumerate(configs)])
    assert differences(runs) == {
        "data.views": ["byol", "spelled out"],
        "callbacks.KNNMonitor.k": ["[20]", "[5]"],
        "callbacks.OnlineLinearProbe": ["-", "yes"],
    }
    assert list(differences(runs)) == ["data.views", "callbacks.KNNMonitor.k", "callbacks.OnlineLinearProbe"]


def test_a_configuration_is_flattened_to_its_flags():
    callbacks = [{"class_path": "a.B"}, {"class_path": "a.B", "init_args": {"x": None}}]
    config = {"model": SIMCLR, "data": {"class_path": "Own"}, "trainer": {"callbacks": callbacks, "lists": [1, 2]}}
    assert flat(config) == {
        "model": "SimCLR",
        "model.temperature": 0.1,
        "data": "Own",
        "callbacks.B": "yes",
        "callbacks.B(2)": "yes",
        "callbacks.B(2).x": None,
        "trainer.lists": [1, 2],
    }


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/r/a/version_0"], ["a/version_0"]),
        (["/r/a/version_0", "/r/b/version_0"], ["a", "b"]),
        (["/r/version_0", "/r/version_1"], ["version_0", "version_1"]),
        (["/r/a/version_0", "/r/a/version_1", "/r/b/version_0"], ["a/version_0", "a/version_1", "b/version_0"]),
        (["/r/a", "/r/a/b"], ["a", "a/b"]),
    ],
)
def test_names_say_what_tells_runs_apart(folders, names):
    assert names_of([Path(folder) for folder in folders]) == names


class Balanced(HTMLParser):
    """Checks that every element is closed, and collects links."""

    VOID = {"meta", "line", "circle", "path", "img"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_leads_to_the_reports(compare, tmp_path):
    runs = three(tmp_path)
    dots = '<circle cx="1.0" cy="2.5" r="5.5" style="fill:#4e79a7"/><circle onload="alert(1)"/>'
    (runs[0] / "report.html").write_text(f"<figcaption>t-SNE</figcaption><svg>{dots}</svg>")
    (tmp_path / "pages").mkdir()
    told, status = compare(*runs, "--sort", "knn", "--out", "pages/compare.html")
    assert status == 0 and told.splitlines()[-1] == "written: pages/compare.html"
    page = (tmp_path / "pages" / "compare.html").read_text()
    reader = Balanced()
    reader.feed(page)
    assert not reader.open
    assert set(reader.links) == {"../done/version_0/report.html"}
    assert page.count('<circle cx="1.0" cy="2.5" r="7"') == 1 and "alert" not in page
    assert page.index("better") < page.index("done") < page.index("going")
    for shown in ("Training loss", "kNN top-1", "Linear probe", "seed_everything", "75.0 %", "last wrote"):
        assert shown in page
    assert not re.findall(r"https?://(?!www.w3.org/)\S+", page)


def test_names_and_values_never_become_markup(tmp_path):
    folder = write_run(tmp_path / "<b>x", config={"model": {"class_path": "m.<i>Net"}})
    page = build_page(read_runs([folder, write_run(tmp_path / "y")]), tmp_path)
    assert "<b>x" not in page and "<i>Net" not in page and "&lt;b&gt;x" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Which runs? Give their folders"),
        (["nowhere"], "There is no folder nowhere."),
        (
            ["done"],
            "done is no run's folder: it has none of summary.json, metrics.csv, config.yaml. Inside it are done/",
        ),
        (["done/version_0", "done/version_0/"], "done/version_0 was given twice"),
        (["done/version_0", "--sort", "kn"], "sort is kn; allowed is one of: 'run', 'method'"),
        (["done/version_0", "--out", "a.pdf"], "--out a.pdf must end in .html"),
        (["done/version_0", "--out", "no/a.html"], "--out no/a.html: there is no folder no"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_can_be_mended_is_said_in_a_sentence(words, message, compare, tmp_path):
    write_run(tmp_path / "done" / "version_0")
    told, status = compare(*words)
    assert status == 2 and told.startswith(f"error: {message}") and told.count("\n") == 1, told
