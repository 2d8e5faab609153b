"""The last step of a run is in its last checkpoint; the best is known. (Validations: tests/test_resume_cadence.py.)"""

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks.owed import OwedBest, OwedCheckpoint
from tests.support.methods import IMAGE_SIZE, small, specs_without_masks
from tests.support.toy_moco import ToyMoCo
from tests.support.training import BATCH, STEPS, TinyImages


@pytest.mark.parametrize(
    ("limits", "step"),
    [
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, 3 * STEPS),
        ({"max_steps": STEPS + 2}, STEPS + 2),
        ({"max_steps": STEPS - 2}, STEPS - 2),
        ({"max_epochs": 1}, STEPS),
    ],
    ids=["not validated", "amid an epoch", "amid the first", "validated"],
)
def test_last_checkpoint_is_of_the_last_step(tmp_path, limits, step):
    module = small(ToyMoCo)
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[OwedCheckpoint(), ModelCheckpoint(tmp_path, save_last=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        logger=False,
        **limits,
    )
    trainer.fit(module, datamodule=TinyImages(specs_without_masks(ToyMoCo), IMAGE_SIZE, batch_size=BATCH))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == step
    for name, value in module.state_dict().items():
        assert torch.equal(saved["state_dict"][name], value), name


class Scores(Callback):
    """Logs one score after another, one an epoch."""

    def __init__(self, *scores):
        self.scores = scores

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.log("score", self.scores[trainer.current_epoch])


def fit_in(folder, epochs, scores, ckpt_path=None):
    """Trains to an epoch; returns what watched for the highest score, and the files of the folder."""
    best = ModelCheckpoint(folder, monitor="score", mode="max", save_top_k=1, filename="best-{epoch}")
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[Scores(*scores), OwedBest(), best, ModelCheckpoint(folder, save_last=True, save_top_k=0)],
        max_epochs=epochs,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        logger=False,
    )
    data = TinyImages(specs_without_masks(ToyMoCo), IMAGE_SIZE, batch_size=BATCH)
    trainer.fit(small(ToyMoCo), datamodule=data, ckpt_path=ckpt_path)
    return best, sorted(path.name for path in folder.glob("best*"))


def test_a_resumed_run_knows_the_best_of_the_folder_before(tmp_path):
    before = tmp_path / "before"
    scores = (0.9, 0.4, 0.5, 0.95)
    _, first = fit_in(before, 2, scores)
    best, second = fit_in(tmp_path / "worse", 3, scores, ckpt_path=before / "last.ckpt")
    assert (first, second) == (["best-epoch=0.ckpt"], [])  # 0.5 is no best
    assert best.best_model_path == str(before / "best-epoch=0.ckpt")
    assert best.best_model_score == pytest.approx(0.9)
    best, third = fit_in(tmp_path / "better", 4, scores, ckpt_path=before / "last.ckpt")
    assert third == ["best-epoch=3.ckpt"]
    assert best.best_model_score == pytest.approx(0.95)
    assert (before / "best-epoch=0.ckpt").is_file()
