"""Mistakes that only a run brings to light: one sentence each, with the flag, and exit status 2."""

import shlex
from pathlib import Path

import pytest

from tests.support.commands import ROOT, cli

pytestmark = pytest.mark.process

NETWORK = "--model.backbone.name convnet --model.backbone.in_channels 1 --model.backbone.options '{width: 4}'"
DIGITS = (
    "--model.optim.optimizer sgd --data Digits --data.max_train_images 32 --data.max_val_images 32 "
    "--data.batch_size 16 --trainer.max_epochs 1 --trainer.accelerator cpu"
)
HEADS = "--model.hidden_dim 16 --model.out_dim 8"
MOCO = f"--model MoCo {NETWORK} {DIGITS} {HEADS} --model.queue_size 64 --model.batch_norm none"


def answer(command: str, folder: Path) -> str:
    """The sentence that a command ends in."""
    code, text = cli(*shlex.split(command), folder=folder)
    assert code == 2, text
    assert "Traceback" not in text
    last = text.strip().splitlines()[-1]
    assert last.startswith("error: "), text
    return last


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (f"--config {ROOT}/configs/imagenet/moco_v1.yaml", "--data.path missing: ImageFolder needs it."),
        ("--model.temperature 1 --model MoCo", "--model.temperature needs its class first: --model NAME before it."),
        ("--model MoCo", "--data missing: give --config FILE, or for example --data CIFAR10."),
        (f"--model SimCLR {DIGITS} --model.micro_batch_size x", "micro_batch_size is x; allowed is one of: int, null."),
        (
            f"--model SimCLR {DIGITS} --model.backbone.name timm/vit_tiny_patch16_224 "
            "--model.backbone.options '{num_heads: 5}'",
            "divisible by num_heads. Change --model.backbone.options.",
        ),
        (
            f"--model FastMoCo {NETWORK} {DIGITS} {HEADS} --model.cells_per_side 14",
            "ConvNet takes no cells of 2 x 2 pixels: set a smaller --model.cells_per_side, or a larger",
        ),
        (
            f"--model BYOL {NETWORK} {DIGITS} {HEADS} --model.batch_norm split:12 --data.batch_size 16",
            "--model.batch_norm split:12 cuts a batch of 16 into groups too small for statistics: set "
            "--data.batch_size (and --model.micro_batch_size, where it is used) to at least 24",
        ),
        (
            f"--model BYOL {NETWORK} {DIGITS} {HEADS} --model.teacher_momentum 1.5",
            "A teacher's momentum is 1.5: set --model.teacher_momentum from 0 to 1.",
        ),
    ],
    ids=["path", "order", "data", "type", "backbone", "cells", "split", "momentum"],
)
def test_a_mistake_is_answered_with_the_flag(command, sentence, tmp_path):
    assert sentence in answer(f"fit {command}", tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a finished run of MoCo."""
    folder = tmp_path_factory.mktemp("moco")
    code, text = cli("fit", *shlex.split(MOCO), folder=folder)
    assert code == 0, text
    return folder


LAST = "runs/version_0/checkpoints/last.ckpt"
START = "start from --config runs/version_0/config.yaml."


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            f"fit {MOCO} --model.batch_norm local --trainer.max_epochs 2",
            "does not fit the MoCo of these flags, which differs in backbone.layers.1.running_mean, "
            "backbone.layers.1.running_var, backbone.layers.5.running_mean and 13 more: it was trained with "
            "--model.batch_norm none; ",
        ),
        (
            f"validate {MOCO} --model.queue_size 128",
            "differs in queue.keys: it was trained with --model.queue_size 64; ",
        ),
        (
            f"validate --model MoCo {DIGITS}",
            "it was trained with --model.backbone.name convnet, --model.backbone.in_channels 1; ",
        ),
        (
            f"validate --model SimCLR {NETWORK} {DIGITS}",
            "does not fit the SimCLR of these flags, which differs in backbone.layers.1.running_mean, ",
        ),
        (
            f"fit {MOCO} --model.optim.optimizer adamw --trainer.max_epochs 2",
            "does not fit these flags: it was trained with --model.optim.optimizer sgd; ",
        ),
    ],
    ids=["norm", "queue", "backbone", "method", "optimiser"],
)
def test_a_checkpoint_and_flags_that_disagree(run, command, sentence):
    told = answer(f"{command} --ckpt_path {LAST}", run)
    assert told.startswith(f"error: --ckpt_path {LAST} ")
    assert sentence in told
    assert told.endswith(START)
    if "SimCLR" in command:
        assert "it was trained with --model methods.MoCo, " in told


def test_a_file_that_is_no_checkpoint(run):
    whole = (run / LAST).read_bytes()
    (run / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    told = answer(f"validate {MOCO} --ckpt_path half.ckpt", run)
    assert "--ckpt_path half.ckpt is no checkpoint, or was not written to its end" in told
