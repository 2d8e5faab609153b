"""Runs of fine-tuning on the few images of `training.TinyImages`, on one rank or several."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from methods.evaluation.fine_tune import FineTune
from methods.optim import OptimConfig
from tests.support.methods import CONVNET, IMAGE_SIZE
from tests.support.training import BATCH, Losses, TinyImages

OPTIM = OptimConfig("sgd", lr=0.05, weight_decay=1e-3, options={"momentum": 0.9}, warmup_epochs=0.5)


def fine_tune(
    rank: int, folder: str | None = None, resume: str | None = None, ranks: int = 1, double: bool = False, **model: Any
) -> dict[str, Any]:
    """Trains for two epochs of five steps.

    Args:
        rank: this process.
        folder: where a checkpoint of every third step goes; None for none.
        resume: checkpoint to go on from.
        ranks: number of processes; they share the global batch.
        double: float64, for comparisons between different numbers of ranks.
        model: arguments of `FineTune`.

    Returns:
        `losses` of this rank's steps, `result` of the last validation, `weights` as numpy arrays.
    """
    if ranks > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), TORCHELASTIC_RUN_ID="tests")
    torch.use_deterministic_algorithms(True)
    seed_everything(7, verbose=False)
    losses = Losses()
    saved = [] if folder is None else [ModelCheckpoint(Path(folder), every_n_train_steps=3, save_top_k=-1)]
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        precision="64-true" if double else "32-true",
        max_epochs=2,
        callbacks=[losses, *saved],
        logger=False,
        enable_checkpointing=folder is not None,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = FineTune(**({"backbone": CONVNET, "optim": OPTIM} | model))
    data = TinyImages(image_size=IMAGE_SIZE, batch_size=BATCH // ranks, eval_batch_size=7)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Checkpoint directory .* is not empty")
        trainer.fit(module, datamodule=data, ckpt_path=resume)
    torch.use_deterministic_algorithms(False)
    weights = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    return {"losses": losses.values, "result": module.result, "weights": weights}
