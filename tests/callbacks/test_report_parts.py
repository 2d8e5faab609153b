"""What a report is made of: samples of images, maps and neighbours, charts, surroundings."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from callbacks.history import Curve
from callbacks.report.charts import Line, line_chart, nice_ticks, tick_labels
from callbacks.report.embedding import NoSpreadError, confused_pairs, neighbours, project
from callbacks.report.environment import config_text, without_paths
from callbacks.report.sample import FEATURES, ValidationSample, ViewSample
from datamodules.views import Views
from tests.callbacks.toy_run import BlobData

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
