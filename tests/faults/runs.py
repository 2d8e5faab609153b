"""Faults of runs: another length on resume, numbers that are not finite, signals, ranks, what they log to."""

from tests.faults.fault import DIGITS, FIT, MOCO, Fault
from tests.faults.prepare import LAST, file, finished_run
from tests.support.methods import IMAGE_SIZE
from tests.support.signalling import signalled

HERE = (finished_run,)
RESUMED = f"{MOCO} --ckpt_path {LAST}"
GUARD = "--trainer.callbacks+ NonFiniteGuard --trainer.callbacks"
VIT = (
    f"{FIT} --model MAE --model.decoder_dim 16 --model.decoder_depth 1 --model.decoder_heads 2 --model.backbone.name "
    "timm/vit_tiny_patch16_224 --model.backbone.in_channels 1 --model.backbone.options "
    f"'{{img_size: {IMAGE_SIZE}, patch_size: 4, embed_dim: 16, depth: 2, num_heads: 4}}' --data Digits "
    f"--data.image_size {IMAGE_SIZE} --trainer.accelerator cpu"
)

LENGTH = [
    Fault("more epochs than planned", "--trainer.max_epochs 2", "or --extend true", on=RESUMED, prepare=HERE),
    Fault(
        "fewer steps than are done",
        "--trainer.max_steps 2 --extend true",
        "is at step 4 already",
        on=RESUMED,
        prepare=HERE,
    ),
    Fault("another learning rate", "--model.optim.lr 0.5", "which these flags cannot change", on=RESUMED, prepare=HERE),
    Fault(
        "another batch size",
        "--data.batch_size 32 --trainer.max_epochs 2 --extend true",
        "would lose its place",
        on=RESUMED,
        prepare=HERE,
        midway=True,
    ),
    Fault("nothing left to do", "", "nothing is left to do", on=RESUMED, prepare=HERE, code=0),
]

LOST_WORKER = '''import multiprocessing
import time

from pytorch_lightning import Callback


class LostWorker(Callback):
    """Ends the loader's workers as a machine without memory does."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 2:
            for worker in multiprocessing.active_children():
                worker.kill()
            time.sleep(1)  # by then torch has noticed
'''

CTRL_C = """from pytorch_lightning import Callback


class CtrlC(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 2:
            raise KeyboardInterrupt
"""

NO_ROOM = '''from pathlib import Path

from pytorch_lightning import Callback


class NoRoom(Callback):
    """A disk without room for the metrics."""

    def on_train_start(self, trainer, module):
        (Path(trainer.log_dir) / "metrics.csv").symlink_to("/dev/full")
'''

NUMBERS = [
    Fault("a learning rate beyond reason", "--model.optim.lr 1e30", "Not finite after", midway=True),
    Fault(
        "every batch of it skipped",
        f"--model.optim.lr 1e30 {GUARD}.action skip --trainer.callbacks.max_skips 2",
        "batches in a row",
        midway=True,
    ),
    Fault("no skips at all", f"{GUARD}.action skip --trainer.callbacks.max_skips 0", "max_skips=0 must be at least 1"),
    Fault("16-bit weights with a teacher", "--trainer.precision bf16-true", "bf16-true", on=MOCO, midway=True),
]

RANKS = [
    Fault("a signal before the first step", " ".join(signalled("on_fit_start")), "Stopped by SIGTERM at once", code=75),
    Fault(
        "a signal amid training",
        " ".join(signalled("on_train_batch_start", 3, name="SIGUSR1")),
        "Stopped by SIGUSR1 after step 3, which runs/version_0/checkpoints/last.ckpt holds.",
        code=75,
        midway=True,
    ),
    Fault(
        "Ctrl-C amid training",
        "",
        "interrupted",
        on=f"{DIGITS} --trainer.callbacks+ ctrl_c.CtrlC",
        prepare=(file("ctrl_c.py", CTRL_C),),
        code=130,
        midway=True,
    ),
    Fault(
        "a loader's worker that is killed",
        "--data.num_workers 1",
        "A worker of the loader died",
        on=f"{DIGITS} --trainer.callbacks+ lost_worker.LostWorker",
        prepare=(file("lost_worker.py", LOST_WORKER),),
        midway=True,
    ),
    Fault("several machines, and no launcher", "--trainer.num_nodes 2 --trainer.strategy ddp", "torchrun or srun"),
    Fault("sharded weights in MAE", "--trainer.strategy sharded", "sharded", on=VIT, midway=True),
    Fault(
        "sharded and compiled weights",
        "--trainer.strategy sharded --model.compile true",
        "sharded",
        midway=True,
    ),
]

DISKS = [
    Fault(
        "a disk that is full when the metrics are written",
        "",
        "A file could not be written (No space left on device)",
        on=f"{DIGITS} --trainer.callbacks+ no_room.NoRoom",
        prepare=(file("no_room.py", NO_ROOM),),
        midway=True,
    ),
]
