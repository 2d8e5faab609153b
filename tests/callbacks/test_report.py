import html.parser
import json
import re
import xml.etree.ElementTree as ET
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks.history import Curve
from callbacks.report import RunReport
from callbacks.report.charts import Line, line_chart, nice_ticks, tick_labels
from callbacks.report.embedding import NoSpreadError, confused_pairs, neighbours, project
from callbacks.report.environment import config_text, without_paths
from callbacks.report.pictures import contact_sheet, data_uri, to_pixels
from callbacks.report.sample import FEATURES, THUMBNAIL, ValidationSample, ViewSample
from callbacks.stopwatch import Stopwatch
from datamodules.views import Views
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
    assert "http" not in re.sub(r"data:[^\"]*", "", page.source)
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


# ---- samples


def batch_of(index, side=8):
    images = torch.zeros(len(index), 3, side, side) + index.clamp(min=0)[:, None, None, None] / 4000 * 4 - 2
    return Views([images], index % 7, index), {"features": index[:, None].float() * torch.ones(1, 4)}


def test_the_sample_is_bounded_and_the_same_in_any_order():
    index = torch.cat([torch.arange(4000), torch.full((20,), -1)])
    samples = []
    for order in (torch.arange(4020), torch.randperm(4020)):
        sample = ValidationSample(BlobData(3))
        for rows in order.split(130):
            sample.add(*batch_of(index[rows]))
            assert sum(len(part[0]) for part in sample._parts) < 2 * FEATURES + 130
        samples.append(sample.finish())
    one, two = samples
    assert len(one) == FEATURES
    assert torch.equal(one.features, two.features) and torch.equal(one.thumbnails, two.thumbnails)
    kept = one.features[:, 0].long()
    assert kept.min() >= 0 and len(kept.unique()) == FEATURES
    assert torch.equal(one.label, kept % 7)
    halves = torch.histc(kept.float(), 8, 0, 4000)
    assert halves.min() > 115 and halves.max() < 135  # evenly over the set, not its first thousand


def test_rows_that_pad_a_batch_are_no_images():
    sample = ValidationSample(None)
    sample.add(*batch_of(torch.tensor([3, -1, 5, -1])))
    assert sorted(sample.finish().features[:, 0].tolist()) == [3, 5]


def test_foreign_batches_are_passed_over():
    sample = ValidationSample(None)
    sample.add([torch.zeros(2, 3, 8, 8)], {"features": torch.zeros(2, 4)})
    sample.add(batch_of(torch.arange(2))[0], torch.tensor(1.0))
    assert len(sample.finish()) == 0


def test_views_are_shrunk_by_one_factor():
    index = torch.arange(12)
    batch = Views([torch.zeros(12, 3, 224, 224)] * 2, index, index, [torch.zeros(12, 3, 96, 96)])
    sample = ViewSample(batch, None)
    assert [tuple(view.shape) for view in sample.views] == [(8, 3, 112, 112)] * 2 + [(8, 3, 48, 48)]
    assert sample.num_global == 2


# ---- pictures


def test_to_pixels_undoes_normalisation():
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    images = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.equal(to_pixels(images, mean, std, THUMBNAIL), pixels)


def test_to_pixels_shrinks_but_never_enlarges_and_stretches_without_statistics():
    images = torch.randn(2, 4, 100, 50)
    assert to_pixels(images, None, None, 40).shape == (2, 3, 40, 20)
    stretched = to_pixels(images[..., :20, :20], None, None, 40)
    assert stretched.shape == (2, 3, 20, 20) and stretched.min() == 0 and stretched.max() == 255


@pytest.mark.parametrize(("shape", "kind"), [((3, 64, 48), "png"), ((1, 28, 28), "png"), ((3, 112, 112), "jpeg")])
def test_data_uri(shape, kind):
    assert data_uri(torch.zeros(shape, dtype=torch.uint8)).startswith(f"data:image/{kind};base64,")


def test_contact_sheet_places_pictures_row_by_row():
    images = (torch.arange(5, dtype=torch.uint8) * 50)[:, None, None, None].expand(5, 1, 16, 16)
    sheet = Image.open(BytesIO(b64decode(contact_sheet(images, 3).partition(",")[2])))
    assert sheet.size == (48, 32)
    levels = [sheet.getpixel((8 + 16 * (i % 3), 8 + 16 * (i // 3))) for i in range(6)]
    assert np.allclose(levels, [0, 50, 100, 150, 200, 0], atol=4)


# ---- maps and neighbours


def test_neighbours_against_a_plain_loop():
    features, k = torch.randn(20, 5), 4
    for i, found in enumerate(neighbours(features, k).tolist()):
        cosine = [float(F.cosine_similarity(features[i], features[j], 0)) if j != i else -9 for j in range(20)]
        assert found == sorted(range(20), key=lambda j: -cosine[j])[:k]
    assert neighbours(features[:3], 6).shape == (3, 2)


def test_confused_pairs_by_hand():
    label = torch.tensor([0, 0, 1, 1, 2, -1])
    nearest = torch.tensor([[1, 2], [0, 2], [3, 0], [2, 5], [4, 4], [0, 1]])
    # class 0: neighbours 0 1 0 1; class 1: 1 0 1 (one unknown); class 2: 2 2
    assert confused_pairs(nearest, label) == [(0, 1, pytest.approx(3 / 7))]


def test_project_keeps_clusters_apart_and_repeats_itself():
    centres = torch.eye(3).repeat_interleave(20, 0)
    features = torch.cat([centres, torch.zeros(60, 5)], 1) + 0.05 * torch.randn(60, 8)
    maps = project(features)
    assert list(maps) == ["t-SNE", "PCA"]
    for name, points in maps.items():
        assert points.shape == (60, 2) and points.min() >= -1e-6 and points.max() <= 1 + 1e-6
        groups = points.reshape(3, 20, 2)
        between = min(np.linalg.norm(groups[a].mean(0) - groups[b].mean(0)) for a, b in ((0, 1), (0, 2), (1, 2)))
        assert between > 3 * groups.std(1).max(), name
        assert np.array_equal(points, project(features)[name])


@pytest.mark.parametrize("features", [torch.ones(20, 4), torch.full((20, 4), float("nan"))])
def test_project_refuses_what_has_no_spread(features):
    with pytest.raises(NoSpreadError):
        project(features)


# ---- charts


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (4.1, 7.3), (-3.9, -1.2), (0, 3e-4), (0, 123456), (0.57, 0.57), (0, 0), (1e-9, 2e-9)]
)
def test_ticks_are_round_evenly_spaced_and_cover(low, high):
    ticks = nice_ticks(low, high)
    gaps = np.diff(ticks)
    assert 3 <= len(ticks) <= 9 and np.allclose(gaps, gaps[0])
    assert ticks[0] <= low + 1e-6 * gaps[0] and ticks[-1] >= high - 1e-6 * gaps[0]
    assert len(set(tick_labels(ticks))) == len(ticks)


def test_tick_labels():
    assert tick_labels([0.0, 0.5, 1.0]) == ["0.0", "0.5", "1.0"]
    assert tick_labels([0, 20000, 40000]) == ["0", "20k", "40k"]
    assert tick_labels([0, 1e-4, 2e-4]) == ["0", "1e-4", "2e-4"]


def test_a_chart_is_well_formed_and_leaves_gaps_for_what_is_not_finite():
    values = [1.0, 2.0, float("nan"), 3.0, float("inf"), 4.0]
    source = line_chart([Line('a <b> & "c"', list(range(6)), [0] * 6, values, "#123456")])
    path = ET.fromstring(source).find(".//{*}path")
    assert path is not None and path.get("d", "").count("M") == 3


def test_long_curves_are_thinned_but_end_where_they_end():
    curve = Curve()
    for step in range(3002):
        curve.add(step, 0, float(step))
    line = Line.of("x", curve, "#000")
    assert len(line.step) <= 600 and line.step[-1] == 3001 and line.value == [float(s) for s in line.step]


# ---- surroundings


def test_no_path_outside_the_run_folder_is_shown(tmp_path):
    text = (
        f"a: /home/me/data/x.txt\nb: https://arxiv.org/abs/1\nc: runs/x/y\nd: {tmp_path}/checkpoints\ne: 3/4\nf: [/a/b]"
    )
    assert without_paths(text, tmp_path) == (
        "a: …/x.txt\nb: https://arxiv.org/abs/1\nc: runs/x/y\nd: ./checkpoints\ne: 3/4\nf: […/b]"
    )


def test_config_is_read_from_the_run_folder_else_from_hyperparameters(tmp_path):
    assert config_text(tmp_path, {"lr": 0.1, "sizes": (1, 2), "kind": BlobData}).startswith(
        "lr: 0.1\nsizes:\n- 1\n- 2\n"
    )
    (tmp_path / "config.yaml").write_text("model: SimCLR\n")
    assert config_text(tmp_path, {}) == "model: SimCLR\n"
