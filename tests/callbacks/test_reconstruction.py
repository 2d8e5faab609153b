"""Completed pictures: which are kept, how their error is averaged, and that they reach log and report."""

import os

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from callbacks import ReconstructionMonitor, RunReport
from callbacks.reconstruction import PICTURES, Reconstruction
from datamodules.views import Views
from tests.callbacks.toy_run import BlobData, ToyModule, toy_trainer
from tests.support.ranks import on_ranks
from tests.support.replay import Prepared, Replay, batches, quiet_trainer


class Completes(ToyModule):
    """Leaves the left half of the images, and makes the rest brighter from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def reconstruct(self, views: Views) -> Reconstruction:
        images = views.global_views[0]
        given, made = images.clone(), images.clone()
        given[..., 8:] = 0
        made[..., 8:] = self.calls / 10
        self.calls += 1
        return Reconstruction(given, made, views.index.double().mean(), "Half of each image & <more> is hidden.")


def fit(folder, module, epochs, ckpt_path=None, **arguments):
    monitor = ReconstructionMonitor(max_images=20)
    trainer = toy_trainer(folder, [monitor, RunReport()], epochs=epochs, **arguments)
    trainer.fit(module, datamodule=BlobData(48), ckpt_path=ckpt_path)
    return monitor, trainer


def test_the_error_is_the_mean_over_the_first_images(tmp_path):
    monitor, trainer = fit(tmp_path, Completes(), 1)
    assert trainer.callback_metrics["reconstruction/val_mse"] == pytest.approx(sum(range(20)) / 20)  # batches of 16
    assert monitor.images.shape == (PICTURES, 3, 16, 16)
    assert torch.equal(monitor.images[..., :8], monitor.given[..., :8])
    assert (monitor.given[..., 8:] == 128).all()  # mean 0.5


def test_pictures_of_the_first_validations_the_powers_of_two_and_the_newest_stay(tmp_path):
    monitor, _ = fit(tmp_path, Completes(), 11, num_sanity_val_steps=0)
    assert [made["validation"] for made in monitor.made] == [1, 2, 4, 8, 11]
    assert [made["epoch"] for made in monitor.made] == [0, 1, 3, 7, 10]
    brightness = [int(made["pixels"][0, 0, 0, -1]) for made in monitor.made]
    # Two batches of a validation are completed, the first of them is kept.
    assert brightness == [round(255 * min(1.0, 0.5 + 0.25 * 2 * (n - 1) / 10)) for n in (1, 2, 4, 8, 11)]


def test_a_resumed_run_keeps_the_earlier_pictures(tmp_path):
    first, trainer = fit(tmp_path / "a", Completes(), 3)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    torch.load(tmp_path / "half.ckpt", weights_only=True)
    second, _ = fit(tmp_path / "b", Completes(), 5, ckpt_path=tmp_path / "half.ckpt")
    assert [made["validation"] for made in second.made] == [1, 2, 4, 5]
    assert torch.equal(second.made[1]["pixels"], first.made[1]["pixels"])


def test_the_report_shows_them_and_says_what_they_are(tmp_path):
    fit(tmp_path, Completes(), 3)
    page = (tmp_path / "run" / "report.html").read_text()
    section = page.partition('<section id="reconstructions">')[2].partition("</section>")[0]
    assert "Half of each image &amp; &lt;more&gt; is hidden." in section
    assert section.count("<img") == PICTURES * (2 + 3)
    assert "epoch 3: 9.5" in section
    assert 'href="#reconstructions"' in page


def test_tensorboard_gets_a_picture_at_every_validation(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="run")
    fit(tmp_path, Completes(), 2, logger=logger)
    events = EventAccumulator(logger.log_dir, {"images": 0}).Reload().Images("reconstruction")
    assert [event.step for event in events] == [3, 6]
    assert (events[0].width, events[0].height) == (PICTURES * 16, 3 * 16)


def test_other_methods_are_left_alone(tmp_path):
    monitor, trainer = fit(tmp_path, ToyModule(), 1)
    assert monitor.images is None
    assert "reconstruction/val_mse" not in trainer.callback_metrics
    assert "econstruction" not in (tmp_path / "run" / "report.html").read_text().partition("<h2>Configuration")[0]


class Counts(Replay):
    """Reports the positions of the images as their error."""

    def reconstruct(self, views: Views) -> Reconstruction:
        assert (views.index >= 0).all()
        pictures = torch.zeros(len(views.index), 3, 4, 4)
        return Reconstruction(pictures, pictures, views.index.double().mean(), "")

    def forward(self, images):
        return images.flatten(1)


def on_rank(rank: int) -> tuple[float, bool]:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", TORCHELASTIC_RUN_ID="tests")
    monitor = ReconstructionMonitor(max_images=100)
    index = torch.tensor([[0, 2, 4], [1, 3, -1]][rank])  # five images over two ranks
    val = [Views([torch.zeros(3, 3, 4, 4)], index, index)]
    data = Prepared(batches(torch.zeros(4, 3), torch.zeros(4).long(), 2), val, None)
    trainer = quiet_trainer([monitor], strategy="ddp", devices=2)
    trainer.fit(Counts(3), datamodule=data)
    return float(trainer.callback_metrics["reconstruction/val_mse"]), monitor.images is not None


@pytest.mark.ddp
def test_two_ranks_share_the_images():
    answers = on_ranks(2, on_rank)
    assert [error for error, _ in answers] == [2.0, 2.0]
    assert [kept for _, kept in answers] == [True, False]
