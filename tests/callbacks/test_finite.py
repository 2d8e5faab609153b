"""A number that is not finite ends the run with a sentence, or its batch is left out; no checkpoint holds one."""

import copy
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.plugins.precision import MixedPrecision

from callbacks import MomentumUpdate, NonFiniteGuard, QueueUpdate
from callbacks.offender import replay
from datamodules.errors import UserError
from methods import BYOL, DINO, MAE, MoCo, SimCLR, VICReg
from tests.support.commands import ROOT, cli
from tests.support.methods import small
from tests.support.poison import Poison, run
from tests.support.ranks import on_ranks
from tests.support.training import Losses


def finite(state: dict[str, Any]) -> bool:
    return all(bool(value.isfinite().all()) for value in state.values() if torch.is_tensor(value))


def stopped(module, folder: Path, *callbacks: Callback, **arguments: Any) -> str:
    """The sentence with which a run ends."""
    with pytest.raises(UserError) as error:
        run(module, folder, *callbacks, **arguments)
    return str(error.value)


class Late(NonFiniteGuard):
    """Reads its answers one step later, as on CUDA."""

    def on_fit_start(self, trainer, pl_module) -> None:
        super().on_fit_start(trainer, pl_module)
        self._late = True


class Arrived:
    """In place of CUDA's events."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


@pytest.mark.parametrize(
    ("method", "what", "told"),
    [
        (SimCLR, "view", "first view 2, of image {image}."),
        (SimCLR, "projector", "first projections, of image {image}."),
        (MoCo, "projector", "first projections, of image {image}."),
        (SimCLR, "loss", r"first the loss, of images \d+, \d+, \d+, \d+, \d+ and 3 more."),
        (SimCLR, "gradient", r"first the gradient of projector.0.weight under a finite loss, of images \d+"),
    ],
)
def test_the_first_tensor_that_is_not_finite_is_named(method, what, told, tmp_path):
    poison, module = Poison(what, 7), small(method)
    sentence = stopped(module, tmp_path, poison)
    assert sentence.startswith("Not finite after 7 steps (epoch 1, batch 2): first ")
    assert re.search(told.format(image=poison.image), sentence), sentence
    path = tmp_path / "checkpoints" / "not_finite-epoch=1-batch=2-rank=0.pt"
    assert f"The batch is in {path};" in sentence
    saved = torch.load(path, weights_only=True)
    assert poison.image == saved["views"]["index"][3]
    assert saved["seed"] == 7
    assert len(saved["views"]["global_views"]) == 2
    newest = tmp_path / "checkpoints" / "last.ckpt"
    assert f"The newest checkpoint is {newest}." in sentence
    checkpoint = torch.load(newest, weights_only=True)
    assert checkpoint["global_step"] == 6
    assert finite(checkpoint["state_dict"])
    assert finite(dict(module.named_parameters()))  # of the last good step, in memory too


def test_terms_that_are_logged_and_not_finite_are_named_with_the_loss(tmp_path, monkeypatch):
    module = small(VICReg)
    contrast = module.contrast

    def spoilt(embeddings):
        output = contrast(embeddings)
        output.logs["variance"] = output.logs["variance"] / 0
        output.loss = output.loss + output.logs["variance"]
        return output

    monkeypatch.setattr(module, "contrast", spoilt)
    assert "(and variance of what is logged)" in stopped(module, tmp_path, max_epochs=1)


@pytest.mark.parametrize(("what", "told"), [("view", "view 2, of image"), ("gradient", "gradient of projector.0")])
def test_an_answer_that_comes_a_step_late_is_the_same(what, told, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Arrived)
    for step, folder in ((6, tmp_path / "between"), (7, tmp_path / "before_a_checkpoint"), (4, tmp_path / "of_epoch")):
        sentence = stopped(small(SimCLR), folder, Poison(what, step), Late())
        assert sentence.startswith(f"Not finite after {step} steps (epoch {step // 5}, batch {step % 5}): first ")
        assert told in sentence
        for path in (folder / "checkpoints").glob("*.ckpt"):
            checkpoint = torch.load(path, weights_only=True)
            assert finite(checkpoint["state_dict"])
            assert checkpoint["global_step"] <= step


def test_a_weight_that_is_not_finite_enters_no_checkpoint(tmp_path):
    sentence = stopped(small(SimCLR), tmp_path, Poison("weight", 5))
    assert sentence.startswith("Not finite after 6 steps: projector.0.weight, though loss and gradients were.")
    newest = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert newest["global_step"] == 4
    assert f"The newest checkpoint is {tmp_path / 'checkpoints' / 'last.ckpt'}." in sentence


def test_a_constant_that_never_was_finite_is_no_offence(tmp_path):
    module = small(SimCLR)
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    assert run(module, tmp_path).global_step == 10


class Keep(Callback):
    """Copies all that is stateful before a batch, and before the next."""

    def __init__(self, batch: int) -> None:
        self.batch, self.seen = batch, -1

    def on_train_batch_start(self, trainer, pl_module, *_) -> None:
        self.seen += 1
        if self.seen == self.batch:
            self.before = self.state(trainer, pl_module)
        if self.seen == self.batch + 1:
            self.after = self.state(trainer, pl_module)

    def state(self, trainer, pl_module) -> dict[str, torch.Tensor]:
        probe = next(c for c in trainer.callbacks if type(c).__name__ == "OnlineLinearProbe")
        state = {**pl_module.state_dict(), "probe": probe.layer.weight}
        for i, values in enumerate(trainer.optimizers[0].state.values()):
            state |= {f"{i}.{name}": value for name, value in values.items()}
        return copy.deepcopy(state)


@pytest.mark.parametrize("what", ["view", "loss", "gradient"])
@pytest.mark.parametrize("method", [SimCLR, MoCo, BYOL], ids=lambda m: m.__name__)
def test_a_skipped_batch_leaves_nothing(method, what, tmp_path):
    guard, keep = NonFiniteGuard("skip"), Keep(3)
    later = [MomentumUpdate(), QueueUpdate()] if method is MoCo else []  # before the guard in the list
    module = small(method)
    with pytest.warns(UserWarning, match=r"Not finite after 3 steps .* It is skipped\."):
        trainer = run(module, tmp_path, keep, *later, Poison(what, 3), guard)
    assert guard.skipped == 1
    assert trainer.global_step == 10  # it counts in the schedule
    assert keep.before.keys() == keep.after.keys()
    for name, value in keep.before.items():
        if name != "probe":
            assert torch.equal(keep.after[name], value), name
    assert finite(keep.after)
    assert finite(module.state_dict())
    assert finite(trainer.callback_metrics)  # of the validation, which uses BatchNorm's averages


def test_too_many_skipped_batches_in_a_row_stop_the_run(tmp_path):
    with pytest.warns(UserWarning, match="It is skipped"):
        sentence = stopped(small(SimCLR), tmp_path, Poison("loss", 1, 3, 4, 5, 6), NonFiniteGuard("skip", max_skips=3))
    assert "after 5 steps" in sentence
    assert "It is the last of 3 such batches in a row." in sentence
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 3
    with pytest.raises(UserError, match="max_skips=0"):
        NonFiniteGuard(max_skips=0)


def test_a_window_of_accumulated_batches_makes_no_step_if_one_of_them_is_skipped(tmp_path):
    guard, poison, module = NonFiniteGuard("skip"), Poison("view", 2), small(MoCo)
    keep = Keep(3)
    with pytest.warns(UserWarning, match=r"epoch 0, batch 2"):
        run(module, tmp_path, poison, keep, guard, accumulate_grad_batches=2)
    assert guard.skipped == 1
    for name, _ in module.named_parameters():  # of student and teacher, after the window's second batch
        assert torch.equal(keep.before[name], keep.after[name]), name
    assert not torch.equal(keep.before["queue.keys"], keep.after["queue.keys"])  # that batch was good
    assert finite(module.state_dict())


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_gradients_that_overflow_in_fp16_are_the_scalers(tmp_path):
    module, scaler = small(SimCLR), torch.amp.GradScaler("cpu", init_scale=16.0)
    mixed = MixedPrecision("16-mixed", "cpu", scaler)
    assert run(module, tmp_path, Poison("gradient", 3), plugins=[mixed]).global_step == 10
    assert scaler.get_scale() == 8.0  # it has seen the overflow, and left that step out
    assert finite(module.state_dict())


def test_the_guard_goes_first_and_the_last_of_several_counts(tmp_path):
    first, last = NonFiniteGuard(), NonFiniteGuard("skip")
    with pytest.warns(UserWarning, match="It is skipped"):
        trainer = run(small(SimCLR), tmp_path, first, Poison("view", 3), last)
    assert trainer.callbacks[0] is last
    assert first not in trainer.callbacks


@pytest.mark.parametrize("method", [SimCLR, MoCo, DINO, MAE], ids=lambda m: m.__name__)
def test_a_saved_step_is_taken_again_bit_for_bit(method, tmp_path):
    losses = Losses()
    run(small(method), tmp_path / "whole", losses)

    class Stop(NonFiniteGuard):
        """Takes the seventh batch for one that is not finite."""

        def _observe(self, gradients):
            look = super()._observe(gradients)
            if self._step == 6:
                look.finite[:2] = False
            return look

    stopped(small(method), tmp_path / "broken", Stop())
    (path,) = (tmp_path / "broken" / "checkpoints").glob("*.pt")
    os.environ["PL_GLOBAL_SEED"] = "1"
    module = method.load_from_checkpoint(tmp_path / "broken" / "checkpoints" / "last.ckpt", weights_only=True)
    assert float(replay(module, path).loss.detach()) == losses.values[6]


@pytest.mark.filterwarnings("ignore:Anomaly Detection:UserWarning", "ignore:Error detected in:UserWarning")
def test_the_recipe_of_the_docs_finds_the_operation(tmp_path):
    stopped(small(SimCLR), tmp_path, Poison("view", 7))
    (recipe,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "numerics.md").read_text(), re.DOTALL)
    recipe = recipe.replace("runs/version_4", str(tmp_path)).replace("epoch=3-batch=239", "epoch=1-batch=2")
    with pytest.raises(RuntimeError, match="Backward0' returned nan values"):
        exec(recipe, {})


def two_ranks(rank: int, folder: str, action: str) -> tuple[str, dict]:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", TORCHELASTIC_RUN_ID="tests")
    module = small(MoCo)
    try:
        run(module, Path(folder), Poison("view", 3, rank=1), NonFiniteGuard(action), ranks=2)
    except UserError as error:
        return str(error), {}
    return "", {name: value.numpy() for name, value in module.state_dict().items()}


@pytest.mark.ddp
def test_ranks_stop_together_and_point_at_the_one_to_blame(tmp_path):
    (told0, _), (told1, _) = on_ranks(2, two_ranks, str(tmp_path), "stop")
    assert "Not finite after 3 steps (epoch 0, batch 3): first what rank 1 tells of." in told0
    assert "first view 2, of image" in told1
    assert len(list((tmp_path / "checkpoints").glob("not_finite-epoch=0-batch=3-rank=*.pt"))) == 2


@pytest.mark.ddp
def test_ranks_skip_together(tmp_path):
    (told0, state0), (told1, state1) = on_ranks(2, two_ranks, str(tmp_path), "skip")
    assert told0 == told1 == ""
    for name, value in state0.items():
        if "running" not in name and "batches" not in name:  # BatchNorm's averages are each rank's own
            assert (value == state1[name]).all(), name


JOB = shlex.split(
    "fit --model SimCLR --model.backbone.name convnet --model.backbone.in_channels 1 --model.hidden_dim 16 "
    "--model.backbone.options '{width: 4}' --model.optim.optimizer sgd --model.optim.lr 1e30 --data Digits "
    "--data.max_train_images 64 --data.max_val_images 32 --data.batch_size 16 --trainer.max_epochs 2 "
    "--trainer.accelerator cpu --trainer.enable_progress_bar false"
)
SKIP = ("--trainer.callbacks+=NonFiniteGuard", "--trainer.callbacks.action=skip", "--trainer.callbacks.max_skips=2")


@pytest.mark.process
@pytest.mark.parametrize(("flags", "told"), [((), SKIP[1]), (SKIP, "the last of 2 such batches in a row")])
def test_the_program_ends_with_the_sentence_and_status_2(flags, told, tmp_path):
    outcome = cli(*JOB, *flags, folder=tmp_path)
    assert outcome.code == 2, outcome.text
    assert "Traceback" not in outcome.text
    last = outcome.text.strip().splitlines()[-1]
    assert last.startswith("error: Not finite after ")
    assert told in last
    assert list(tmp_path.glob("runs/version_0/checkpoints/not_finite-*.pt"))
