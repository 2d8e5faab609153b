"""What differs between ranks comes back to the rank that it belongs to."""

import os
import warnings

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks import KNNMonitor, OnlineLinearProbe, RepresentationMonitor
from datamodules.views import Views
from tests.support.ranks import on_ranks
from tests.support.replay import Prepared, Replay, batches, quiet_trainer

BATCHES, B, D = 6, 4, 5


def prepared(seed: int, first: int = 0) -> Prepared:
    """One rank's images; a loader of a resumed run begins anew, so it is given what is left, then the rest."""
    generator = torch.Generator().manual_seed(seed)
    h, positives = torch.randn(2, BATCHES * B, D, generator=generator)
    label = torch.randint(0, 3, (BATCHES * B,), generator=generator)
    train: list[Views] = batches(h, label, B, positives)
    return Prepared(train[first:] + train[:first], batches(h.flip(0), label.flip(0), 8), 3)


def run(rank: int, folder: str, data: Prepared, resume_from: int | None = None) -> dict[str, float]:
    watchers: list[Callback] = [
        OnlineLinearProbe(lr=0.1),
        KNNMonitor(k=[3], bank="recent", bank_size=2 * 20),  # more than the resumed run adds
        RepresentationMonitor(),
    ]
    checkpoint = ModelCheckpoint(folder, "{step}", every_n_train_steps=4, save_top_k=-1)
    trainer = quiet_trainer([*watchers, checkpoint], strategy="ddp", devices=2, enable_checkpointing=True)
    path = None if resume_from is None else f"{folder}/step={resume_from}.ckpt"
    trainer.fit(Replay(D), datamodule=data, ckpt_path=path)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def on_rank(rank: int, folder: str) -> tuple[dict[str, float], dict[str, float], list[str]]:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", TORCHELASTIC_RUN_ID="tests")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = run(rank, f"{folder}/whole", prepared(rank))
        resumed = run(rank, f"{folder}/whole", prepared(rank, first=4), resume_from=4)
    return whole, resumed, [str(w.message) for w in caught if "sync_dist" in str(w.message)]


@pytest.mark.ddp
def test_two_ranks_go_on_with_their_own_memory(tmp_path):
    names = {"probe/train_top1", "probe/val_top1", "knn/val_top1", "representation/alignment"}
    answers = on_ranks(2, on_rank, str(tmp_path))
    for whole, resumed, told in answers:
        assert names <= set(whole)
        assert resumed == whole  # the checkpoint was written after 4 of 6 batches
        assert not told  # what is logged is of all ranks already
    assert answers[0][0] == answers[1][0]


def test_one_process_gets_its_own_back_and_another_number_of_ranks_nothing():
    class Memory(RepresentationMonitor):
        """Remembers one number."""

    monitor, again = Memory(), Memory()
    monitor._alignment = torch.tensor([3.0, 2.0])
    trainer = quiet_trainer([])
    checkpoint: dict = {"callbacks": {}}
    monitor.on_save_checkpoint(trainer, Replay(D), checkpoint)
    again.on_load_checkpoint(trainer, Replay(D), checkpoint)
    assert again.rank_state()["alignment"].tolist() == [3, 2]

    other = Memory()
    ranks = checkpoint["callbacks"][monitor.state_key]["ranks"]
    ranks["alignment"] = ranks["alignment"].expand(4, 2)
    other.on_load_checkpoint(trainer, Replay(D), checkpoint)
    other.on_load_checkpoint(trainer, Replay(D), {"callbacks": {}})  # of a run without this callback
    assert other.rank_state() == {}
