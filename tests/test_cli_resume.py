"""One command for a job that is started again and again, and how it ends when it is stopped."""

import shlex
from types import SimpleNamespace

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks import RunReport
from cli import ParallaxCLI
from scripts.parsing import answering_mistakes
from tests.support.commands import cli

JOB = shlex.split(
    "fit --model SimCLR --model.backbone.name convnet --model.backbone.in_channels 1 "
    "--model.backbone.options '{width: 4}' --data Digits --data.max_train_images 64 "
    "--data.max_val_images 32 --data.batch_size 16 "
    "--trainer.accelerator cpu --trainer.enable_progress_bar false --ckpt_path auto"
)
LAST = "runs/version_0/checkpoints/last.ckpt"


def everything(folder):
    """Every file of a folder and when it was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".output"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run that came to its end, and what it said."""
    folder = tmp_path_factory.mktemp("job")
    return folder, cli(*JOB, "--trainer.max_epochs", "1", folder=folder)


@pytest.mark.process
def test_auto_starts_and_leaves_a_finished_run_alone(finished):
    folder, first = finished
    assert first.code == 0, first.text
    assert "below runs yet: starting anew" in first.text
    before = everything(folder)
    again = cli(*JOB, "--trainer.max_epochs", "1", folder=folder)
    assert again.code == 0, again.text
    assert f"{LAST} is the end of its run (1 epoch, 4 steps): nothing is left to do." in again.text
    assert everything(folder) == before


@pytest.mark.process
def test_auto_takes_any_seed_for_the_one_that_any_comes_to(finished):
    folder, _ = finished
    again = cli(*JOB, "--trainer.max_epochs", "1", "--seed_everything", "true", folder=folder)
    assert f"{LAST} is the end of its run" in again.text


@pytest.mark.process
@pytest.mark.parametrize("subcommand", ["validate", "predict"])
def test_auto_never_judges_a_network_that_was_not_trained(finished, subcommand):
    folder, _ = finished
    words = [word for word in JOB if word != "fit"]
    refused = cli(subcommand, *words, "--model.temperature", "0.5", folder=folder)
    assert refused.code == 2, refused.text
    told = "below runs: the newest, runs/version_0, has --model.temperature 0.1, not 0.5. Give a file's path."
    assert f"--ckpt_path auto: no checkpoint of these settings {told}" in refused.text


@pytest.mark.process
@pytest.mark.parametrize(
    ("flags", "finished_by"),
    [
        ("--trainer.logger CSVLogger --trainer.logger.save_dir logs --trainer.max_epochs 1", "end of its run (1 epoch"),
        (
            "--trainer.max_epochs 1 --trainer.callbacks pytorch_lightning.callbacks.ModelCheckpoint "
            "--trainer.callbacks.dirpath kept",
            "end of its run (1 epoch",
        ),
        ("--trainer.max_time 00:00:00:01", "has trained for --trainer.max_time 00:00:00:01: nothing is left to do."),
    ],
    ids=["logger", "folder", "time"],
)
def test_auto_goes_on_with_what_the_same_flags_left(tmp_path, flags, finished_by):
    first, again = (cli(*JOB, *shlex.split(flags), folder=tmp_path) for _ in range(2))
    assert first.code == again.code == 0, first.text + again.text
    assert "starting anew" in first.text
    assert finished_by in again.text
    assert not (tmp_path / "runs/version_1").exists()


@pytest.mark.process
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            "--trainer.max_epochs 2",
            f"--ckpt_path {LAST} is of a run planned for 1 epoch, 4 steps, and these flags make it 2 epochs, 8 steps: "
            "give --trainer.max_epochs 1 to finish it as planned, or --extend true to plan its schedules anew over the "
            "other length.",
        ),
        (
            "--trainer.max_epochs 2 --trainer.max_steps 3 --extend true",
            "is at step 4 already, and these flags end the run after 2 epochs, 3 steps: give more than that.",
        ),
        (
            f"--trainer.max_epochs 1 --ckpt_path {LAST} --model.optim.lr 0.5 --model.optim.options '{{momentum: 0.8}}'",
            f"--ckpt_path {LAST} goes on with the optimiser that it holds, which these flags cannot change: "
            "--model.optim.lr 0.5 given, 0.3 there; --model.optim.options {'momentum': 0.8} given, {} there. Give the "
            "same, or start a run anew.",
        ),
        (
            "--trainer.max_epochs 1 --ckpt_path last",
            "--ckpt_path last: every run has a folder of its own, so there is none in this one: give auto, a folder, "
            "or a file such as RUN/checkpoints/last.ckpt.",
        ),
    ],
    ids=["longer", "shorter than done", "optimiser", "Lightning's word"],
)
def test_what_a_checkpoint_cannot_follow_is_refused_before_anything_is_made(finished, flags, sentence):
    folder, _ = finished
    before = everything(folder)
    refused = cli(*JOB, *shlex.split(flags), folder=folder)
    assert refused.code == 2, refused.text
    assert sentence in refused.text
    assert everything(folder) == before


@pytest.mark.process
def test_extended_it_goes_on_and_another_method_starts_anew(tmp_path):
    outcomes = [
        cli(*JOB, "--trainer.max_epochs", "1", folder=tmp_path),
        cli(*JOB, "--trainer.max_epochs", "2", "--extend", "true", folder=tmp_path),
        cli(*JOB, "--trainer.max_epochs", "2", folder=tmp_path),
        cli(*JOB, "--trainer.max_epochs", "1", "--model.temperature", "0.5", folder=tmp_path),
    ]
    assert [outcome.code for outcome in outcomes] == [0, 0, 0, 0], outcomes
    _, extended, finished, other = (outcome.text for outcome in outcomes)
    assert f"Resuming from {LAST}" in extended
    assert "Extended from 1 epoch, 4 steps to 2 epochs, 8 steps: now at step 4, 50% of the way" in extended
    assert "Finished after 2 epochs, 8 steps" in extended
    assert "runs/version_1/checkpoints/last.ckpt is the end of its run (2 epochs, 8 steps)" in finished
    newest = "the newest, runs/version_1, has --model.temperature 0.1, not 0.5. Starting anew."
    assert f"No checkpoint of these settings below runs: {newest}" in other


def test_last_ckpt_is_written_after_other_checkpoints_of_its_moment():
    last, best, report = ModelCheckpoint(save_last=True), ModelCheckpoint(monitor="knn/val_top1"), RunReport()
    trainer = SimpleNamespace(callbacks=[report, last, best])
    ParallaxCLI.before_fit(SimpleNamespace(trainer=trainer, config=SimpleNamespace(fit=SimpleNamespace(extend=False))))
    assert trainer.callbacks[4:] == [report, best, last]  # or it would not know the best so far


def test_an_interrupt_is_no_stack_trace(capsys):
    with pytest.raises(SystemExit) as stopped, answering_mistakes():
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
