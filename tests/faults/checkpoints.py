"""Faults in checkpoints that a run is to go on from."""

from typing import Any

import torch

from tests.faults.fault import DIGITS, MOCO, Fault
from tests.faults.prepare import LAST, directory, edited, file, finished_run, pickled_code, shortened

LONGER = "--trainer.max_epochs 2 --extend true"
HERE = (finished_run,)
JUDGE = MOCO.replace("cli.py fit", "cli.py validate")


def without(*names: str) -> Any:
    """A checkpoint that lacks some of its entries."""
    return lambda checkpoint: {name: value for name, value in checkpoint.items() if name not in names}


def amid_an_epoch(checkpoint: Any) -> Any:
    """A checkpoint whose run had done two of the four batches of its epoch."""
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    batches["current"] = dict.fromkeys(batches["current"], 2)
    batches["is_last_batch"] = False
    return checkpoint


RESUME = [
    Fault("a file that is not there", "--ckpt_path nowhere.ckpt", "there is no such file", on=MOCO),
    Fault(
        "a folder without a checkpoint",
        "--ckpt_path folder",
        "no complete checkpoint below this folder",
        on=MOCO,
        prepare=(directory("folder"),),
    ),
    Fault(
        "a checkpoint cut short",
        "--ckpt_path half.ckpt",
        "was not written to its end",
        on=MOCO,
        prepare=(edited(dict, "half.ckpt"), shortened("half.ckpt")),
    ),
    Fault(
        "an empty file",
        "--ckpt_path empty.ckpt",
        "was not written to its end",
        on=MOCO,
        prepare=(file("empty.ckpt", ""),),
    ),
    Fault("a text", "--ckpt_path text.ckpt", "is no checkpoint", on=MOCO, prepare=(file("text.ckpt", "weights"),)),
    Fault("a pickle that runs a command", "--ckpt_path evil.ckpt", "it is refused", on=MOCO, prepare=(pickled_code,)),
    Fault(
        "a tensor", "--ckpt_path other.ckpt", "not a dictionary", on=MOCO, prepare=(edited(lambda _: torch.ones(2)),)
    ),
    Fault(
        "weights alone",
        "--ckpt_path other.ckpt",
        "no state of a run",
        on=MOCO,
        prepare=(edited(lambda c: c["state_dict"]),),
    ),
    Fault(
        "a checkpoint without the optimiser's state",
        f"--ckpt_path other.ckpt {LONGER}",
        "no state of an optimiser",
        on=MOCO,
        prepare=(edited(without("optimizer_states", "lr_schedulers")),),
    ),
    Fault(
        "a checkpoint of a newer Lightning",
        f"--ckpt_path other.ckpt {LONGER}",
        "Finished after 2 epochs",
        on=MOCO,
        prepare=(edited(lambda c: c | {"pytorch-lightning_version": "99.0.0"}),),
        code=0,
    ),
    Fault(
        "another method",
        f"--ckpt_path {LAST}",
        "it was trained with --model methods.MoCo",
        on=DIGITS.replace("cli.py fit", "cli.py validate"),
        prepare=HERE,
    ),
    Fault(
        "another network",
        f"--ckpt_path {LAST} --model.backbone.options '{{width: 8}}'",
        "it was trained with --model.backbone.options",
        on=JUDGE,
        prepare=HERE,
    ),
    Fault(
        "other channels",
        f"--ckpt_path {LAST} --model.backbone.in_channels 3",
        "--model.backbone.in_channels 1",
        on=JUDGE,
        prepare=HERE,
    ),
    Fault(
        "another queue", f"--ckpt_path {LAST} --model.queue_size 128", "differs in queue.keys", on=JUDGE, prepare=HERE
    ),
    Fault(
        "other norms", f"--ckpt_path {LAST} --model.batch_norm local", "--model.batch_norm none", on=JUDGE, prepare=HERE
    ),
    Fault(
        "another optimiser",
        f"--ckpt_path {LAST} --model.optim.optimizer adamw",
        "it was trained with --model.optim.optimizer sgd",
        on=MOCO,
        prepare=HERE,
    ),
    Fault(
        "another seed amid an epoch",
        f"--ckpt_path other.ckpt {LONGER} --seed_everything 7",
        "64 images in the order of seed 0, and these flags give 64 images in the order of seed 7",
        on=MOCO,
        prepare=(edited(amid_an_epoch),),
        midway=True,
    ),
    Fault(
        "nothing of these settings to judge",
        "--ckpt_path auto --model.temperature 0.5",
        "has --model.temperature 0.2, not 0.5",
        on=JUDGE,
        prepare=HERE,
    ),
]

SMALL_DISK = '''import resource

from pytorch_lightning import Callback


class SmallDisk(Callback):
    """No file may grow beyond 20 kB from the first step on."""

    def on_train_start(self, trainer, module):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
'''

WRITE = [
    Fault(
        "an address for a folder of runs",
        "--trainer.default_root_dir s3://bucket/runs",
        "is an address, and a run writes files: mount it",
    ),
    Fault(
        "a disk that is full when the checkpoint is written",
        "",
        "could not be written",
        on=f"{MOCO} --trainer.callbacks+ small_disk.SmallDisk",
        prepare=(file("small_disk.py", SMALL_DISK),),
        midway=True,
    ),
]
