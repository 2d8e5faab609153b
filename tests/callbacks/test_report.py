import errno
import html.parser
import json
import os
import re
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks.report import RunReport
from callbacks.stopwatch import Stopwatch
from tests.callbacks.toy_run import BlobData, ToyModule, ToyMonitor, toy_trainer

SECTIONS = 7


def fit(folder, data, module=None, callbacks=(), epochs=2, ckpt_path=None, **arguments):
    report = RunReport()
    trainer = toy_trainer(folder, [ToyMonitor(), *callbacks, report], epochs=epochs, **arguments)
    trainer.fit(module or ToyModule(), datamodule=data, ckpt_path=ckpt_path)
    return report, trainer


class Page(html.parser.HTMLParser):
    """A report as a reader's program sees it: balanced tags, text, and everything it would load."""

    VOID = {"meta", "img", "br", "link", "input", "circle", "line", "path"}

    def __init__(self, source):
        super().__init__()
        self.source, self.text, self.loads, self.open, self.tags = source, "", [], [], []
        self.feed(source)
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.loads += [value for name, value in attrs if name in ("src", "href", "data", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    fit(folder, BlobData(96), profiler=Stopwatch(), epochs=3)
    return Page((folder / "run" / "report.html").read_text())


def test_every_section_is_there(page):
    assert 'class="missing"' not in page.source
    assert page.count("h2") == SECTIONS
    for text in (
        "ToyModule on BlobData",
        "Finished after 3 epochs, 18 steps",
        "57.0",
        "healthy",
        "disc",
        "forward",
        "ToyMonitor",
    ):
        assert text in page.text
    images = page.count("img") - 3 * 8 - 1  # without the eight images' views and the map's contact sheet
    assert images >= 8 * 7 and images % 7 == 0  # rows of a query and its six neighbours


def test_the_page_needs_nothing_else(page):
    assert all(value.startswith(("data:image/", "#")) for value in page.loads), page.loads
    assert not re.search("https?:", re.sub(r"data:[^\"]*", "", page.source))
    assert "@import" not in page.source and "url(" not in page.source.partition("<script>")[0].partition("</style>")[0]


def test_names_of_classes_are_text_not_markup(page):
    assert "bar <b>" in page.text and "ring & co" in page.text
    assert page.count("b") == 0


def test_hover_data_are_the_logged_values(page):
    plots = [json.loads(attrs["data-plot"]) for _, attrs in page.tags if "data-plot" in attrs]
    accuracy = next(plot for plot in plots if plot["unit"] == " %")
    lines = {line["label"]: line for line in accuracy["lines"]}
    assert lines["kNN"]["step"] == [5, 11, 17] and lines["kNN"]["epoch"] == [0, 1, 2]
    assert lines["kNN"]["value"] == pytest.approx([100 * (0.9 - 0.4 * 0.97**n) for n in (7, 13, 19)], abs=0.01)
    assert lines["kNN of the untrained network"]["value"] == [57.0, 57.0]


def test_files_are_beside_each_other_and_whole(tmp_path):
    fit(tmp_path, BlobData(48))
    assert {"report.html", "summary.json"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert not list((tmp_path / "run").glob("*.part"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["step"] == 6 and summary["untrained_top1"] == pytest.approx(0.57) and summary["stopped_by"] is None
    assert summary["verdict"] == ToyMonitor.verdict and Path(summary["report"]).name == "report.html"


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(tmp_path, channels):
    fit(tmp_path, BlobData(48, channels), ToyModule(channels))
    assert 'class="missing"' not in re.sub(r"<p[^>]*>The time was.*?</p>", "", read(tmp_path))


def test_images_without_labels(tmp_path):
    fit(tmp_path, BlobData(48, labelled=False))
    text = Page(read(tmp_path)).text
    assert "image 0" in text and "Most confusable" not in text and "coloured by class" not in text


def read(folder):
    return (folder / "run" / "report.html").read_text()


def test_a_foreign_run_gets_sentences_in_place_of_sections(tmp_path):
    class Foreign(ToyModule):
        def training_step(self, batch, batch_idx):
            return self.net(batch.global_views[0]).pow(2).mean()

        def validation_step(self, batch, batch_idx):
            return None

    data = BlobData(48)
    report = RunReport()
    trainer = toy_trainer(tmp_path, [report], logger=False)
    trainer.fit(Foreign(), data.train_dataloader(), data.val_dataloader())
    source = (tmp_path / "report.html").read_text()
    sentences = re.findall(r'class="missing">([^<]*)', source)
    assert len(sentences) == 4 and all(sentence.endswith(".") for sentence in sentences), sentences
    assert "Foreign" in Page(source).text


def test_a_collapsed_representation_is_said_not_drawn(tmp_path):
    module = ToyModule()
    module.validation_step = lambda batch, batch_idx: {"features": torch.ones(len(batch.index), 8)}
    fit(tmp_path, BlobData(48), module)
    assert "the representation has collapsed" in read(tmp_path)


def test_a_section_that_breaks_costs_only_itself(tmp_path, monkeypatch, caplog):
    def broken(features):
        raise FloatingPointError("no map")

    monkeypatch.setattr("callbacks.report.images.project", broken)
    fit(tmp_path, BlobData(48), profiler=Stopwatch())
    assert read(tmp_path).count('class="missing"') == 1
    assert "no map" in caplog.text and "feature_map" in caplog.text


def test_ctrl_c_leaves_a_report_and_the_way_on(tmp_path, capsys, monkeypatch):
    class CtrlC(ToyMonitor):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 5:
                raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["cli.py", "fit", "--config", "a.yaml"])
    checkpoint = ModelCheckpoint(tmp_path / "kept", save_last=True)
    with pytest.raises(SystemExit):
        fit(tmp_path, BlobData(48), callbacks=[CtrlC(), checkpoint], epochs=9, enable_checkpointing=True)
    printed = capsys.readouterr().out
    assert "Stopped by KeyboardInterrupt after 2 epochs, 5 steps" in printed
    assert f"python cli.py fit --config a.yaml --ckpt_path {tmp_path / 'kept' / 'last.ckpt'}" in printed
    assert "Stopped by KeyboardInterrupt" in read(tmp_path)


def test_a_run_that_breaks_before_its_first_validation_leaves_nothing(tmp_path):
    class Fail(ToyMonitor):
        def on_train_batch_end(self, trainer, *_):
            raise RuntimeError("early")

    with pytest.raises(RuntimeError, match="early"):
        fit(tmp_path, BlobData(48), callbacks=[Fail()])
    assert not (tmp_path / "run" / "report.html").exists()


def full(path, *_, **__):
    path.touch()  # room for names, and none for what they hold
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_costs_a_finished_run_its_report_alone(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setattr(Path, "write_text", full)
    fit(tmp_path, BlobData(48))
    for name in ("report.html", "summary.json"):
        assert f"{name} could not be written ([Errno 28] No space left on device)" in caplog.text
    assert not {path.name for path in (tmp_path / "run").iterdir()} & {"report.html", "summary.json"}
    assert not list((tmp_path / "run").glob("*.part"))
    printed = capsys.readouterr().out
    assert "Finished after 2 epochs, 6 steps" in printed and "Report: " not in printed


def test_a_full_disk_hides_no_error_of_the_run(tmp_path, monkeypatch):
    class Fail(ToyMonitor):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 5:
                raise RuntimeError("its own")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RuntimeError, match="its own"):
        fit(tmp_path, BlobData(48), callbacks=[Fail()])


def test_a_trial_run_leaves_nothing(tmp_path, capsys):
    fit(tmp_path, BlobData(48), fast_dev_run=True)
    assert not list(tmp_path.rglob("report.html")) and "Finished" not in capsys.readouterr().out


def test_a_resumed_run_has_the_whole_curve(tmp_path):
    report, trainer = fit(tmp_path / "a", BlobData(96), epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    torch.load(tmp_path / "half.ckpt", weights_only=True)
    resumed, _ = fit(tmp_path / "b", BlobData(96), epochs=4, ckpt_path=tmp_path / "half.ckpt")
    step, epoch, value = resumed.history.curves["train/loss"].points()
    assert step == list(range(24)) and epoch == [s // 6 for s in range(24)]
    assert value[:12] == report.history.curves["train/loss"].value
    assert resumed.history.curves["knn/val_top1"].step == [5, 11, 17, 23]
    assert resumed.history.pace.images == 16 * (11 + 11)  # less the first batch of each process


def test_the_report_changes_no_other_folder(tmp_path):
    with_report, without = tmp_path / "with", tmp_path / "without"
    folders = []
    for folder, callbacks in ((with_report, [RunReport()]), (without, [])):
        checkpoint = ModelCheckpoint()
        trainer = toy_trainer(folder, [*callbacks, checkpoint], logger=False, enable_checkpointing=True)
        trainer.fit(ToyModule(), datamodule=BlobData(48))
        folders.append((Path(checkpoint.dirpath).relative_to(folder), Path(trainer.log_dir).relative_to(folder)))
    assert folders[0] == folders[1]
