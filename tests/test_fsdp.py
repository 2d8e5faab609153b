"""Networks cut up over the ranks learn what whole ones learn, teachers included."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.distributed.tensor import DTensor

from callbacks.checkpoint_io import AtomicCheckpointIO
from datamodules.errors import UserError
from methods.optim import OptimConfig
from methods.sharding import ShardedStrategy
from tests.support.methods import BACKBONES, IMAGE_SIZE, VIT, all_methods, small, specs_without_masks
from tests.support.ranks import on_ranks
from tests.support.training import BATCH, STEPS, Losses, TinyImages, arrays, assert_same, watchers

OPTIMISERS = {
    "adamw": OptimConfig("adamw", lr=1e-2, weight_decay=0.05, options={}, warmup_epochs=0.5, clip_each=3.0),
    "lars": OptimConfig("lars", lr=0.5, weight_decay=1e-6, options={"momentum": 0.9}, warmup_epochs=0.5),
}


class Cut(Callback):
    """Breaks a run off before a step."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyError("cut")


def _train(
    rank: int,
    name: str,
    optimizer: str,
    strategy: str,
    folder: str,
    cut: int | None = None,
    resume: bool = False,
    compiled: bool = False,
) -> dict[str, Any] | str:
    """Losses, whole weights from the last checkpoint, and which of this rank's parameters are shares."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", TORCHELASTIC_RUN_ID="tests")
    torch.use_deterministic_algorithms(True)
    seed_everything(7, verbose=False)
    method = next(m for m in all_methods() if m.__name__ == name)
    backbone = BACKBONES.get(name, VIT)
    module = small(method, batch_norm="sync", backbone=backbone, optim=OPTIMISERS[optimizer], compile=compiled)
    losses, folder_of_checkpoints = Losses(), Path(folder) / "checkpoints"
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        plugins=[AtomicCheckpointIO()],
        max_epochs=2,
        callbacks=[
            *watchers(),
            losses,
            Cut(cut),
            ModelCheckpoint(folder_of_checkpoints, every_n_train_steps=1, save_last=True, enable_version_counter=False),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    data = TinyImages(specs_without_masks(method), IMAGE_SIZE, batch_size=BATCH // 2, eval_batch_size=7)
    last = folder_of_checkpoints / "last.ckpt"
    try:
        trainer.fit(module, datamodule=data, ckpt_path=str(last) if resume else None, weights_only=True)
    except (UserError, KeyError) as error:
        return str(error)
    saved = torch.load(last, weights_only=True)
    return {
        "losses": losses.values,
        "weights": {name: value.numpy() for name, value in saved["state_dict"].items()},
        "optimizer": {
            f"{parameter}/{part}": torch.as_tensor(value).numpy()
            for parameter, state in saved["optimizer_states"][0]["state"].items()
            for part, value in state.items()
        },
        "probe": arrays(saved["callbacks"]["OnlineLinearProbe:probe"], folder),
        "shares": [name for name, parameter in module.named_parameters() if isinstance(parameter, DTensor)],
        "all": [name for name, _ in module.named_parameters()],
    }


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("method", "optimizer"), [pytest.param("MoCoV3", "lars", marks=pytest.mark.slow), ("DINOOnViT", "adamw")]
)
def test_sharded_equals_ddp_and_resumes(method, optimizer, tmp_path):
    whole = on_ranks(2, _train, method, optimizer, "ddp", str(tmp_path / "ddp"))
    shared = on_ranks(2, _train, method, optimizer, "sharded", str(tmp_path / "sharded"))
    assert shared[0]["shares"] == shared[0]["all"]  # students and teachers
    assert not whole[0]["shares"]
    for a, b in zip(whole, shared, strict=True):
        np.testing.assert_allclose(b["losses"], a["losses"], rtol=1e-5)
    for kind in ("weights", "optimizer"):  # as if another strategy had written them
        assert whole[0][kind].keys() == shared[0][kind].keys()
        for name, value in whole[0][kind].items():
            np.testing.assert_allclose(shared[0][kind][name], value, rtol=1e-4, atol=1e-6, err_msg=name)

    on_ranks(2, _train, method, optimizer, "sharded", str(tmp_path / "broken"), STEPS + 2)
    resumed = on_ranks(2, _train, method, optimizer, "sharded", str(tmp_path / "broken"), None, True)
    for a, b in zip(shared, resumed, strict=True):
        assert b["losses"] == a["losses"][STEPS + 2 :]
        assert_same(b["weights"], a["weights"])
        assert_same(b["optimizer"], a["optimizer"])
        assert_same(b["probe"], a["probe"])


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("ddp", "sharded"), ("sharded", "ddp")])
def test_a_run_goes_on_in_the_other_strategy(before, after, tmp_path):
    whole = on_ranks(2, _train, "MoCoV3", "adamw", "ddp", str(tmp_path / "whole"))
    on_ranks(2, _train, "MoCoV3", "adamw", before, str(tmp_path), STEPS + 2)
    resumed = on_ranks(2, _train, "MoCoV3", "adamw", after, str(tmp_path), None, True)
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_allclose(b["losses"], a["losses"][STEPS + 2 :], rtol=1e-4)


@pytest.mark.ddp
def test_compiled_networks_are_refused(tmp_path):
    answers = on_ranks(2, _train, "MoCoV3", "adamw", "sharded", str(tmp_path), None, False, True)
    assert all("--model.compile true" in answer for answer in answers)


@pytest.mark.ddp
def test_a_method_that_calls_parts_of_networks_is_refused(tmp_path):
    answers = on_ranks(2, _train, "MAE", "adamw", "sharded", str(tmp_path))
    assert all("MAE uses parts of its networks by themselves" in answer for answer in answers)


def test_the_strategy_has_a_name():
    trainer = Trainer(accelerator="cpu", devices=2, strategy="sharded", logger=False, enable_checkpointing=False)
    assert isinstance(trainer.strategy, ShardedStrategy)
