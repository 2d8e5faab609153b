"""The command line as users type it: what works, and what a mistake is answered with."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from tests.support.commands import ROOT, cli

pytestmark = pytest.mark.process

# A run of seconds: the digits, a tiny net, no warm-up, nothing drawn.
TINY = shlex.split(
    "--model SimCLR --model.hidden_dim 16 --model.out_dim 8 --model.backbone.name convnet "
    "--model.backbone.in_channels 1 --model.backbone.options '{width: 4}' --model.optim.optimizer sgd "
    "--data Digits --data.max_train_images 64 --data.max_val_images 32 --data.batch_size 16 "
    "--trainer.max_epochs 1 --trainer.accelerator cpu"
)


def write_readme_example(folder: Path) -> None:
    """The method of one's own that the README shows."""
    example = re.search(r"```python\n# cold.py\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    (folder / "cold.py").write_text(example[1])


def test_print_config_of_method_and_data_by_name(tmp_path):
    code, text = cli("fit", "--model", "SimCLR", "--data", "CIFAR10", "--print_config", folder=tmp_path)
    assert code == 0
    config = yaml.safe_load(text)
    assert config["model"]["class_path"] == "methods.SimCLR"
    assert config["model"]["init_args"]["optim"]["lr_scaling"] == "linear"
    assert config["data"]["class_path"] == "datamodules.CIFAR10"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--model SimCRL", "Did you mean 'SimCLR'?"),
        ("--model SimCLR --data CIFAR01", "Did you mean 'CIFAR10'?"),
        ("--model SimCLR --model.temprature 0.2", "'temprature' is no option of SimCLR. Did you mean 'temperature'?"),
        ("--model SimCLR --model.optim.lrr 1", "Did you mean 'optim.lr'?"),
        ("--model SimCLR --data Digits --data.batchsize 1", "Did you mean 'batch_size'?"),
        ("--trainer.max_epoch 4", "Did you mean 'trainer.max_epochs'?"),
        ("--traner.max_epochs 4", "Did you mean 'trainer.max_epochs'?"),
        ("--model SimCLR --trainer.callbacks+ KNNMonitr", "Did you mean 'KNNMonitor'?"),
        ("--model SimCLR --model.optim.lr fast", "optim.lr: Expected a 'float'. Got value: fast"),
        ("--model SimCLR --trainer.precision 17", "trainer.precision"),
        ("--config nowhere.yaml", "nowhere.yaml"),
        ("", "--model missing"),
        ("--model SimCLR --data Digits", "set --model.backbone.in_channels 1"),
        (shlex.join(TINY) + " --model.optim.optimizer adamm", "did you mean 'adam'"),
        (shlex.join(TINY) + " --model.optim.options '{momentm: 0.9}'", "did you mean 'momentum'?"),
        (shlex.join(TINY) + " --model.optim.lr -1", "must be >= 0"),
        (shlex.join(TINY) + " --model.backbone.name resnet81", "did you mean"),
        (shlex.join(TINY) + " --data.views crop_flip", "SimCLR takes 2 global views"),
        (shlex.join(TINY) + " --model.temperature 0", "temperature=0.0 must be above 0"),
        (shlex.join(TINY) + " --model.micro_batch_size 0", "micro_batch_size 0 must be at least 1"),
        (shlex.join(TINY) + " --data.views simcrl", "Did you mean 'simclr'?"),
        (shlex.join(TINY) + " --data.batch_size 65", "64 training images"),
        (shlex.join(TINY) + " --ckpt_path nowhere.ckpt", "nowhere.ckpt"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(arguments, sentence, tmp_path):
    code, text = cli("fit", *shlex.split(arguments), folder=tmp_path)
    assert code == 2, text
    assert sentence in text
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) < 15, text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: {class_path: SimCLR, init_args: {temprature: 3}}", "Did you mean 'temperature'?"),
        ("model: {class_path: SimCLR, init_args: {optim: {lrr: 3}}}", "Did you mean 'optim.lr'?"),
        ("model: {class_path: SimCLRR}", "Did you mean 'SimCLR'?"),
        ("modle: {class_path: SimCLR}", "Did you mean 'model'?"),
        ("model: [", "line 2"),
    ],
)
def test_a_mistake_in_a_file_is_answered_in_a_sentence(text, sentence, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    code, answer = cli("fit", "--config", "mine.yaml", folder=tmp_path)
    assert code == 2
    assert sentence in answer
    assert "Traceback" not in answer
    assert len(answer.strip().splitlines()) < 8, answer


def test_a_run_leaves_its_folder_and_the_next_one_takes_another(tmp_path):
    for version in range(2):
        code, text = cli("fit", *TINY, folder=tmp_path)
        assert code == 0, text
        folder = tmp_path / "runs" / f"version_{version}"
        for name in ("metrics.csv", "config.yaml", "report.html", "summary.json", "checkpoints/last.ckpt"):
            assert (folder / name).exists(), name
        assert list(folder.glob("events.out.tfevents.*"))
        assert json.loads((folder / "summary.json").read_text())["knn_top1"] > 0
    assert "kNN top-1" in text
    assert "untrained network" in text
    assert "raw pixels" in text


def test_a_saved_config_repeats_the_run(tmp_path):
    cli("fit", *TINY, folder=tmp_path)
    code, text = cli("fit", "--config", "runs/version_0/config.yaml", folder=tmp_path)
    assert code == 0, text
    first, second = ((tmp_path / f"runs/version_{v}/metrics.csv").read_text() for v in (0, 1))
    assert first == second


def test_a_checkpoint_is_validated_with_all_watchers(tmp_path):
    cli("fit", *TINY, folder=tmp_path)
    run = tmp_path / "runs/version_0"
    again = ["--ckpt_path", str(run / "checkpoints/last.ckpt")]
    code, text = cli("validate", *TINY, *again, folder=tmp_path)
    assert code == 0, text
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    for name in ("knn/val_top1", "probe/val_top1", "representation/effective_rank"):
        shown = next(line for line in text.splitlines() if name in line)
        assert float(re.findall(r"\d+\.\d+", shown)[0]) == pytest.approx(metrics[name], rel=1e-4)
    assert not (tmp_path / "runs/version_1").exists()


def test_a_resumed_run_keeps_the_flags_it_is_given(tmp_path):
    cli("fit", *TINY, folder=tmp_path)
    last = "runs/version_0/checkpoints/last.ckpt"
    more = ["--trainer.max_epochs", "2", "--extend", "true", "--model.temperature", "0.77", "--ckpt_path", last]
    code, text = cli("fit", *TINY, *more, folder=tmp_path)
    assert code == 0, text
    checkpoint = torch.load(tmp_path / "runs/version_1/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 1
    assert checkpoint["hyper_parameters"]["temperature"] == 0.77
    assert (
        yaml.safe_load((tmp_path / "runs/version_1/config.yaml").read_text())["model"]["init_args"]["temperature"]
        == 0.77
    )


def test_a_subclass_in_a_folder_of_its_own_trains(tmp_path):
    """The example of the README, word for word."""
    write_readme_example(tmp_path)
    mine = ["--model", "cold.ColdSimCLR", "--model.chill", "3", *TINY[2:]]
    code, text = cli("fit", *mine, folder=tmp_path)
    assert code == 0, text
    saved = yaml.safe_load((tmp_path / "runs/version_0/config.yaml").read_text())
    assert saved["model"]["init_args"]["chill"] == 3
    assert "ColdSimCLR" in text


def test_environment_variables_set_values_and_flags_win(tmp_path):
    environment = {"PARALLAX_FIT__TRAINER__MAX_EPOCHS": "7", "PARALLAX_FIT__SEED_EVERYTHING": "5"}
    _, text = cli(
        "fit",
        "--model",
        "SimCLR",
        "--data",
        "Digits",
        "--seed_everything",
        "6",
        "--print_config",
        folder=tmp_path,
        environment=environment,
    )
    config = yaml.safe_load(text)
    assert config["trainer"]["max_epochs"] == 7
    assert config["seed_everything"] == 6


def test_readme_commands_parse(tmp_path):
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^python (?:path/to/parallax/)?cli\.py (.*?)(?:\s+#.*)?$", readme, re.MULTILINE)
    assert len(commands) >= 4
    write_readme_example(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for command in commands:
        code, text = cli(*shlex.split(command), "--print_config", folder=tmp_path)
        assert code == 0, f"{command}\n{text}"
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.MULTILINE):
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True).returncode == 0, target


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    arguments = [*TINY, "--trainer.max_epochs", "500"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "fit", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    checkpoints = tmp_path / "runs/version_0/checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("newest-epoch=[1-9]*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.2)  # the second epoch's: by then the first is complete, however slow the machine
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    assert "Traceback" not in text
    assert "--ckpt_path" in text
    assert (tmp_path / "runs/version_0/report.html").exists()
    resume = next(line for line in text.splitlines() if "--ckpt_path" in line)
    assert "last.ckpt" in resume


@pytest.mark.slow
@pytest.mark.ddp
def test_two_devices_by_flag(tmp_path):
    arguments = [*TINY, "--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "8"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "fit", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["version_0"]
