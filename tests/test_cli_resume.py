"""One command for a job that is started again and again, and how it ends when it is stopped."""

import shlex

import pytest

from scripts.parsing import answering_mistakes
from tests.support.commands import cli

JOB = shlex.split(
    "fit --model SimCLR --model.backbone.name convnet --model.backbone.in_channels 1 "
    "--model.backbone.options '{width: 4}' --data Digits --data.max_train_images 64 "
    "--data.max_val_images 32 --data.batch_size 16 "
    "--trainer.accelerator cpu --trainer.enable_progress_bar false --ckpt_path auto"
)


@pytest.mark.process
def test_auto_starts_goes_on_and_takes_no_other_method(tmp_path):
    outcomes = [
        cli(*JOB, "--trainer.max_epochs", "1", folder=tmp_path),
        cli(*JOB, "--trainer.max_epochs", "2", folder=tmp_path),
        cli(*JOB, "--trainer.max_epochs", "2", "--model.temperature", "0.5", folder=tmp_path),
    ]
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes
    first, again, other = (outcome.text for outcome in outcomes)
    assert "below runs yet: starting anew" in first
    assert "Resuming from runs/version_0/checkpoints/last.ckpt" in again
    assert "Finished after 2 epochs, 8 steps" in again
    assert "starting anew" in other


def test_an_interrupt_is_no_stack_trace(capsys):
    with pytest.raises(SystemExit) as stopped, answering_mistakes():
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
