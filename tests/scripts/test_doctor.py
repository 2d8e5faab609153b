"""The doctor as a user types it."""

import shlex

import pytest
from PIL import Image

from scripts.doctor import main

TINY = shlex.split(
    "--model SimCLR --model.hidden_dim 16 --model.out_dim 8 --model.backbone.name convnet "
    "--model.backbone.in_channels 1 --model.backbone.options '{width: 4}' "
    "--model.optim.optimizer adamw --model.optim.lr 1e-3 --model.optim.warmup_epochs 1 --data Digits "
    "--data.max_train_images 64 --data.max_val_images 32 --data.batch_size 16 "
    "--trainer.max_epochs 40 --trainer.accelerator cpu --seconds 0.3"
)


def told(out: str) -> str:
    """The words of the table in one line."""
    return " ".join(out.replace("│", " ").split())


def test_a_healthy_run_passes_and_leaves_only_the_sheet(run_script, tmp_path):
    out, code = run_script(main, *TINY, "--sheet", "views.png")
    assert code == 0, out
    for words in ("64 to train on, 32 to validate on", "4 batches an epoch, 160 steps", "images/s on one device"):
        assert words in told(out)
    assert "0 problem(s)" in out  # how fast the data come is this machine's
    with Image.open(tmp_path / "views.png") as sheet:
        assert sheet.width > 300
    assert [path.name for path in tmp_path.iterdir()] == ["views.png"]


def test_a_run_of_a_few_batches_is_not_timed(run_script):
    out, _ = run_script(main, *TINY, "--trainer.max_steps", "3")
    assert "not measured: the run has too few batches" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--data.batch_size", "65"), "There are 64 training images, fewer than one batch of 65"),
        (("--data.views", "swav"), "SimCLR takes no local views, the recipe makes 6"),
        (("--model.optim.warmup_epochs", "40"), "the warm-up takes 40 epochs, the run has 40"),
        (("--trainer.devices", "2", "--data.batch_size", "40"), "an epoch has no steps: 64 images, 40 a batch on each"),
    ],
    ids=["batch", "views", "warm-up", "ranks"],
)
def test_a_run_that_would_fail_or_be_wasted_ends_with_status_1(flags, words, run_script, tmp_path):
    out, code = run_script(main, *TINY, *flags)
    assert code == 1, out
    assert words in told(out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "SimCRL"), "Did you mean 'SimCLR'?"),
        ((*TINY, "--trainer.max_epoch", "4"), "Did you mean 'trainer.max_epochs'?"),
        ((*TINY, "--seconds", "0"), "--seconds 0 must be above 0"),
        ((*TINY, "--sheet", "nowhere/x.png"), "--sheet nowhere/x.png: there is no folder nowhere"),
        ((*TINY, "--model.temperature", "0"), "temperature=0.0 must be above 0"),
    ],
)
def test_wrong_flags_are_answered_in_a_sentence(flags, message, run_script):
    err, code = run_script(main, *flags)
    assert code == 2
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
