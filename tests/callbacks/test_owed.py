"""The last step of a run is in its last checkpoint. (Owed validations: tests/test_resume_cadence.py.)"""

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks.owed import OwedCheckpoint
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
