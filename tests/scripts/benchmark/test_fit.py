"""The comparison of a run with its own networks."""

import json
from collections import Counter

import pytest
import torch
from pytorch_lightning import Trainer

from callbacks.stopwatch import Stopwatch
from methods import MoCo
from methods.optim import OptimConfig
from scripts.benchmark.bare import BareTurns, NoiseImages, bare_step
from scripts.benchmark.fit import main
from tests.support.methods import small


def run(callback, tmp_path, batches=12):
    data = NoiseImages(num_images=4 * batches, side=16, image_size=16, batch_size=4)
    module = small(MoCo, optim=OptimConfig(warmup_epochs=0))
    options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        max_epochs=1, limit_val_batches=0, accelerator="cpu", logger=False, callbacks=[callback], profiler=Stopwatch(),
        default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module, trainer


def test_blocks_take_turns_until_enough_is_seen(tmp_path):
    module, trainer = run(BareTurns(str(tmp_path / "turns.json"), block=2, rounds=3, warmup=2), tmp_path)
    facts = json.loads((tmp_path / "turns.json").read_text())
    assert trainer.global_step == 2 + 2 * 3  # of 12
    assert facts["efficiency_min"] <= facts["efficiency"] <= facts["efficiency_max"]
    assert {"forward", "backward", "optimiser step", "views"} <= set(facts["milliseconds_a_step"])
    assert "BareTurns" not in facts["milliseconds_a_step"]
    whole = sum(facts["milliseconds_a_step"].values()) / 1000
    assert facts["batch_size"] / facts["fit_images_per_s"] == pytest.approx(whole, rel=0.5)


class Spy(BareTurns):
    """Looks at what a bare step leaves behind."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx:
            return
        before = {name: value.clone() for name, value in pl_module.state_dict().items()}
        step = bare_step(trainer, pl_module, batch)
        twin = dict(zip(step.__code__.co_freevars, (c.cell_contents for c in step.__closure__), strict=True))["twin"]
        step()
        self.unchanged = all(torch.equal(value, before[name]) for name, value in pl_module.state_dict().items())
        moved = {n.split(".")[0] for n, p in twin.named_parameters() if not torch.equal(p.detach(), before[n])}
        self.moved, self.attached = Counter(moved), pl_module.trainer is trainer

    def on_train_batch_end(self, *_):
        pass


def test_a_bare_step_trains_a_copy_and_leaves_the_run_alone(tmp_path):
    spy = Spy(str(tmp_path / "unused.json"))
    run(spy, tmp_path)
    assert spy.unchanged
    assert spy.attached
    assert set(spy.moved) == {"backbone", "projector"}  # not the teacher, not the queue


def test_a_case_that_is_not_known_is_answered(capsys):
    with pytest.raises(SystemExit):
        main(["--only", "SimCRL"])
    assert "SimCLR" in capsys.readouterr().err
