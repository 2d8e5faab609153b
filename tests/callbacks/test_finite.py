"""A number that is not finite ends the run with a sentence; no checkpoint holds one."""

import os
import re
import shlex

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision

from callbacks import NonFiniteGuard
from callbacks.offender import Offender, replay
from datamodules.views import Views
from methods import DINO, MAE, MoCo, SimCLR, VICReg
from tests.support.commands import ROOT, cli
from tests.support.methods import small
from tests.support.poison import Poison, finite, run, stopped
from tests.support.training import Losses


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


def test_what_goes_with_the_views_may_be_a_number_an_image():
    weights, images = torch.tensor([1.0, torch.nan, 1.0]), torch.zeros(3, 1, 2, 2)
    views = Views([images], label=torch.zeros(3), index=torch.arange(5, 8), extras={"weight": weights})
    assert Offender(views, {}, {}).first([]) == (1, "weight, of image 6")


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


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_gradients_that_overflow_in_fp16_are_the_scalers(tmp_path):
    module, scaler = small(SimCLR), torch.amp.GradScaler("cpu", init_scale=16.0)
    mixed = MixedPrecision("16-mixed", "cpu", scaler)
    assert run(module, tmp_path, Poison("gradient", 3), plugins=[mixed]).global_step == 10
    assert scaler.get_scale() == 8.0  # it has seen the overflow, and left that step out
    assert finite(module.state_dict())


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
