"""Collapse metrics against their definitions, and the verdict that follows from them."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks import RepresentationMonitor
from callbacks.representation import alignment, effective_rank, feature_std, num_directions, uniformity
from tests.support.replay import Prepared, batches, watch

D = 8


def unit(x: Tensor) -> np.ndarray:
    x = x.double().numpy()
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_std_is_zero_for_one_point_and_one_for_the_sphere():
    direction = torch.randn(1, D)
    assert float(feature_std(direction * torch.rand(64, 1))) == pytest.approx(0, abs=1e-5)  # only norms differ
    assert float(feature_std(torch.randn(4096, D))) == pytest.approx(1, abs=0.02)
    h = torch.randn(32, D)
    assert float(feature_std(h)) == pytest.approx(unit(h).std(0, ddof=1).mean() * math.sqrt(D), rel=1e-5)


def rank_by_definition(features: Tensor) -> float:
    p = np.linalg.svd(features.double().numpy(), compute_uv=False)
    p = p / p.sum()
    return float(np.exp(-(p * np.log(p + 1e-30)).sum()))


@pytest.mark.parametrize("shape", [(64, D), (5, D)])
def test_effective_rank_equals_its_definition(shape):
    h = torch.randn(shape) * torch.logspace(0, -3, D)
    assert float(effective_rank(h)) == pytest.approx(rank_by_definition(h), rel=1e-4)
    assert float(effective_rank(7 * h)) == pytest.approx(float(effective_rank(h)), rel=1e-4)


def test_effective_rank_of_known_features():
    orthogonal = torch.linalg.qr(torch.randn(64, D)).Q
    assert float(effective_rank(orthogonal)) == pytest.approx(D, rel=1e-4)
    assert float(effective_rank(torch.randn(64, 1) @ torch.randn(1, D))) == pytest.approx(1, abs=1e-3)
    assert float(effective_rank(orthogonal[:, :3] @ torch.linalg.qr(torch.randn(D, 3)).Q.T)) == pytest.approx(
        3, rel=1e-3
    )
    assert float(effective_rank(torch.zeros(4, D))) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.full((4, D), torch.nan)).isnan()


def test_alignment_and_uniformity_equal_double_loops():
    h, other = torch.randn(2, 12, D)
    a, b = unit(h), unit(other)
    distances = [((x - y) ** 2).sum() for x, y in zip(a, b, strict=True)]
    assert float(alignment(3 * h, other)) == pytest.approx(np.mean(distances), rel=1e-5)
    pairs = [math.exp(-2 * ((a[i] - a[j]) ** 2).sum()) for i in range(12) for j in range(i)]
    assert float(uniformity(3 * h)) == pytest.approx(math.log(np.mean(pairs)), rel=1e-5)


def test_ends_of_alignment_and_uniformity():
    h = torch.randn(12, D)
    assert float(alignment(h, 5 * h)) == pytest.approx(0, abs=1e-10)
    assert float(alignment(h, -h)) == pytest.approx(4, rel=1e-6)
    assert float(uniformity(h[:1].expand(12, D))) == pytest.approx(0, abs=1e-6)


def data(train: Tensor, positives: Tensor | None, val: Tensor, padding: int = 0) -> Prepared:
    """Unlabelled; the last rows of the validation set only pad."""
    no_label = torch.full((len(train),), -1)
    val_batches = batches(val, torch.full((len(val),), -1), 10)
    if padding:
        last = val_batches[-1]
        val_batches[-1] = last._replace(index=torch.cat([last.index[:-padding], torch.full((padding,), -1)]))
    return Prepared(batches(train, no_label, 4, positives), val_batches, None)


def test_logs_all_metrics_of_the_right_images():
    train, positives, val = torch.randn(12, D), torch.randn(12, D), torch.randn(40, D)
    val[-3:] = 1e6  # padding must not enter
    monitor = RepresentationMonitor()
    logged = watch(monitor, data(train, positives, val, padding=3)).callback_metrics
    means = [float(alignment(x, y)) for x, y in zip(train.split(4), positives.split(4), strict=True)]
    expected = {
        "representation/feature_std": float(feature_std(val[:-3])),
        "representation/effective_rank": float(effective_rank(val[:-3])),
        "representation/uniformity": float(uniformity(val[:-3])),
        "representation/alignment": float(np.mean(means)),
    }
    assert {name: float(value) for name, value in logged.items()} == pytest.approx(expected, rel=1e-5)
    assert monitor.verdict == f"alive: std {expected['representation/feature_std']:.2f}, 8 of 8 directions in use"


class Settling(RepresentationMonitor):
    """Sees two views of an image agree from the second epoch on."""

    def on_train_batch_end(self, trainer, pl_module, outputs, *_) -> None:
        agreed = {"positives": outputs["features"]} if trainer.current_epoch else {}
        super().on_train_batch_end(trainer, pl_module, outputs | agreed)


def test_each_epoch_has_its_own_alignment():
    logged = watch(Settling(), data(*torch.randn(3, 8, D)), max_epochs=2).callback_metrics
    assert float(logged["representation/alignment"]) == pytest.approx(0, abs=1e-10)


def test_takes_so_many_images_and_no_more():
    val = torch.randn(40, D)
    logged = watch(RepresentationMonitor(max_images=15), data(torch.randn(8, D), None, val)).callback_metrics
    assert float(logged["representation/feature_std"]) == pytest.approx(float(feature_std(val[:15])), rel=1e-5)
    # And without a second view there is no alignment.
    assert set(logged) == {f"representation/{name}" for name in ("feature_std", "effective_rank", "uniformity")}


POINT = torch.ones(1, D) + 1e-4 * torch.randn(40, D)
LINE = torch.randn(40, 1).sign() * torch.ones(1, D) + 0.01 * torch.randn(40, D)


@pytest.mark.parametrize(("val", "word"), [(POINT, "same point"), (LINE, "of 8 directions"), (POINT / 0, "not finite")])
def test_collapse_is_called_by_its_name(val, word):
    monitor = RepresentationMonitor()
    with pytest.warns(UserWarning, match=word):
        trainer = watch(monitor, data(torch.randn(8, D), None, val), max_epochs=2)
    assert word in monitor.verdict
    assert not monitor.verdict.startswith("alive")
    assert monitor.collapsed_for == 2
    assert trainer.current_epoch == 2  # it watches, and does not act unless asked to


@pytest.mark.filterwarnings("ignore:The representation is collapsed")
def test_a_sanity_check_is_no_validation():
    monitor = RepresentationMonitor()
    watch(monitor, data(torch.randn(8, D), None, POINT), num_sanity_val_steps=2)
    assert monitor.collapsed_for == 1


@pytest.mark.filterwarnings("ignore:The representation is collapsed")
def test_stops_when_collapsed_for_long_enough():
    monitor = RepresentationMonitor(stop_on_collapse=True, patience=3)
    trainer = watch(monitor, data(torch.randn(8, D), None, POINT), max_epochs=9)
    assert trainer.current_epoch == 3


class Dozing(RepresentationMonitor):
    """Sees a healthy validation in between."""

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        if trainer.current_epoch == 1:
            self._features = [torch.randn(40, D)]
        super().on_validation_epoch_end(trainer, pl_module)


@pytest.mark.filterwarnings("ignore:The representation is collapsed")
def test_recovery_starts_the_count_anew():
    monitor = Dozing(stop_on_collapse=True, patience=2)
    assert watch(monitor, data(torch.randn(8, D), None, POINT), max_epochs=9).current_epoch == 4


@pytest.mark.filterwarnings("ignore:The representation is collapsed")
def test_patience_survives_a_resume(tmp_path):
    prepared = data(torch.randn(8, D), None, POINT)
    watch(RepresentationMonitor(), prepared, max_epochs=2).save_checkpoint(tmp_path / "two.ckpt")
    monitor = RepresentationMonitor(stop_on_collapse=True, patience=3)
    assert watch(monitor, prepared, tmp_path / "two.ckpt", max_epochs=9).current_epoch == 3


def test_unit_features_are_not_changed_by_their_norm():
    h = torch.randn(16, D)
    scaled = h * torch.rand(16, 1).add(0.5)
    torch.testing.assert_close(feature_std(scaled), feature_std(h))
    torch.testing.assert_close(uniformity(scaled), uniformity(F.normalize(h, dim=1)))


def test_directions_count_where_the_variance_goes():
    def by_definition(x: Tensor) -> float:
        variance = np.linalg.eigvalsh(np.cov(unit(x).T))
        p = np.clip(variance / variance.sum(), 1e-30, None)
        return float(np.exp(-(p * np.log(p)).sum()))

    x = torch.randn(64, D) * torch.logspace(0, -1, D)
    assert float(num_directions(x)) == pytest.approx(by_definition(x), rel=1e-4)
    assert float(num_directions(torch.randn(4096, D))) == pytest.approx(D, rel=0.01)
    assert float(num_directions(LINE)) == pytest.approx(1, abs=0.1)
    assert num_directions(torch.full((4, D), torch.nan)).isnan()
    assert float(num_directions(torch.ones(4, D))) == pytest.approx(1, abs=0.5)  # no variance at all: finite


class Projecting(RepresentationMonitor):
    """Gets projections beside the features."""

    def __init__(self, projections: Tensor, **arguments: int | bool) -> None:
        super().__init__(**arguments)
        self.projections = projections

    def on_train_batch_end(self, trainer, pl_module, outputs, *_) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs | {"projections": self.projections})


@pytest.mark.parametrize(("projections", "word"), [(POINT, "shrink to a point"), (LINE, "shrink to 1.")])
def test_shrinking_projections_are_told_but_stop_nothing(projections, word):
    monitor = Projecting(projections, stop_on_collapse=True, patience=1)
    with pytest.warns(UserWarning, match=word):
        trainer = watch(monitor, data(torch.randn(8, D), None, torch.randn(40, D)), max_epochs=3)
    assert monitor.verdict.startswith("collapsing")
    assert trainer.current_epoch == 3  # the features are alive


def test_healthy_projections_are_measured():
    projections = torch.randn(40, D)
    monitor = Projecting(projections)
    logged = watch(monitor, data(torch.randn(8, D), None, torch.randn(40, D))).callback_metrics
    assert monitor.verdict.startswith("alive")
    assert float(logged["representation/projection_std"]) == pytest.approx(float(feature_std(projections)), rel=1e-5)
    expected = float(num_directions(projections))
    assert float(logged["representation/projection_directions"]) == pytest.approx(expected, rel=1e-5)
