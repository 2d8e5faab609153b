"""What pre-training saves in labels: fine-tuning from a checkpoint against training from scratch, at several shares.

python scripts/label_efficiency.py CHECKPOINT --data CIFAR10 --data.path FOLDER --name cifar10-label-efficiency-cpu
python scripts/label_efficiency.py CHECKPOINT --fractions 0.01 0.1 --seeds 0 1 --max_images 5000    # the run's own data

Both starts get the same images (data.label_fraction, drawn by seed), views, optimiser steps, batch size and grid of
learning rates. The rate of a cell of the table, one start at one share, is that of the best mean accuracy over the
seeds on a fifth of those labels, held out; the cell is then trained anew on all of them, and judged on the validation
images, which have no part in any choice.
"""

import copy
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, from anywhere
from jsonargparse import Namespace
from pytorch_lightning import Trainer, seed_everything
from rich.console import Console

from datamodules import ImageDataModule
from datamodules.errors import UserError
from datamodules.labels import taking_part
from methods.evaluation.fine_tune import FineTune
from methods.optim import OptimConfig
from methods.pretrained import Pretrained, load_backbone
from scripts.evaluating import record
from scripts.evaluating.label_shares import Cell, table
from scripts.evaluating.protocols import check_seeds
from scripts.evaluation_data import add_data, data_for
from scripts.parsing import PlainParser, answering_mistakes
from scripts.quiet import logging_from
from scripts.reproduce import commit, hardware

STARTS = ("scratch", "pretrained")
HELD_OUT = 0.2  # of the labels, to choose the rate on
WARMUP = 0.1  # of the steps
WEIGHT_DECAY = 0.05


class Bench:
    """All runs of a table.

    Args:
        given: the command line.
        data: the images, not set up.
        found: the checkpoint's network.

    Raises:
        UserError: a share leaves nothing to choose the rate on.
    """

    def __init__(self, given: Namespace, data: ImageDataModule, found: Pretrained) -> None:
        self.given, self.data, self.found = given, data, found
        data.prepare_data()
        self.sources = data.sources()
        if len(given.lrs) > 1:
            for fraction in given.fractions:
                self.check_share(fraction)
        each = len(given.seeds) * (1 + len(given.lrs) * (len(given.lrs) > 1))
        self.runs, self.done = len(given.fractions) * len(STARTS) * each, 0
        self.began = time.perf_counter()

    def check_share(self, fraction: float) -> None:
        """Refuses a share of which no image can be held out: found in seconds, not after the other shares' runs."""
        data = copy.copy(self.data)
        data.label_fraction, data.label_seed, data.held_out = fraction, self.given.seeds[0], HELD_OUT
        train, held = taking_part(data, *self.sources)
        if not len(held):
            raise UserError(
                f"--fractions {fraction:g} leaves {len(train)} images of {len(train.labels.unique())} classes, too few "
                f"of each (often one) for {100 * HELD_OUT:g} % to be held out to choose the learning rate on: give one "
                "rate, as --lrs 1e-3, or a larger share."
            )

    def cell(self, start: str, fraction: float) -> Cell:
        """Chooses the rate, then trains with every seed and judges."""
        given = self.given
        lr, held_out = given.lrs[0], {}
        if len(given.lrs) > 1:
            for rate in given.lrs:
                found = [self.run(start, fraction, seed, rate, HELD_OUT)[0] for seed in given.seeds]
                held_out[rate] = statistics.mean(found)
            lr = max(given.lrs, key=held_out.__getitem__)
        accuracy, images = zip(*(self.run(start, fraction, seed, lr) for seed in given.seeds), strict=True)
        return Cell(start, fraction, images[0], held_out, lr, list(accuracy))

    def run(
        self, start: str, fraction: float, seed: int, lr: float, held_out: float | None = None
    ) -> tuple[float, int]:
        """One training; its accuracy, and the number of its images."""
        given = self.given
        seed_everything(seed, verbose=False)
        data = copy.deepcopy(self.data)
        data.sources = lambda: self.sources  # opened once for all runs
        data.label_fraction, data.label_seed, data.held_out = fraction, seed, held_out
        module, steps = self.model(start, lr, data), given.steps
        trainer = Trainer(
            max_steps=steps,
            max_epochs=-1,
            check_val_every_n_epoch=steps + 1,  # no epoch is shorter than a step: never
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=data)
        trainer.validate(module, datamodule=data, verbose=False)
        accuracy = module.result[given.metric]
        self.done += 1
        left = (time.perf_counter() - self.began) / self.done * (self.runs - self.done)
        where = "held-out" if held_out else "validation"
        print(
            f"{self.done}/{self.runs}  {start}, {100 * fraction:g} %, seed {seed}, lr {lr:g}: {100 * accuracy:.1f} % "
            f"of the {where} images; {left / 60:.1f} min left",
            flush=True,
        )
        return accuracy, data.num_train_images

    def model(self, start: str, lr: float, data: ImageDataModule) -> FineTune:
        """The network at its start, with a schedule that is the same in steps, however many images there are."""
        given, found = self.given, self.found
        data.views = data.views or FineTune.recipe
        data.setup("fit")
        data.batch_size = min(given.batch_size, data.num_train_images)
        warmup = WARMUP * given.steps / (data.num_train_images // data.batch_size)  # in epochs
        optim = OptimConfig("adamw", lr, WEIGHT_DECAY, lr_scaling="none", warmup_epochs=warmup)
        if start == "scratch":
            return FineTune(backbone=found.config, optim=optim, batch_norm=found.batch_norm)
        return FineTune(given.checkpoint, given.part, optim=optim)


@contextmanager
def silence() -> Iterator[None]:
    """Keeps what Lightning and the module say of every run out of a table of many."""
    with logging_from(logging.ERROR), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        yield


def protocol(given: Namespace, data: ImageDataModule) -> str:
    """What stands behind the table."""
    rates = ", ".join(f"{lr:g}" for lr in given.lrs)
    if len(given.lrs) > 1:
        rates += f" (the best on {100 * HELD_OUT:g} % of the labels, held out; then trained anew on all)"
    sizes = (("training", data.max_train_images), ("validation", data.max_val_images))
    limits = "".join(f", at most {most:,} {kind} images" for kind, most in sizes if most)
    views = data.views or FineTune.recipe
    return (
        f"{type(data).__name__}{limits}: {given.metric.replace('_', ' ')} on clean validation images; all weights "
        f"trained, {given.steps} steps of up to {given.batch_size} images, views {views}, AdamW, lr {rates}, weight "
        f"decay {WEIGHT_DECAY:g}, {100 * WARMUP:g} % of the steps warm-up, cosine to 0; seeds "
        f"{', '.join(map(str, given.seeds))} of labels and run"
    )


def check(given: Namespace) -> None:
    """Refuses what cannot be run.

    Raises:
        UserError: a number is out of its range.
    """
    check_seeds(given.seeds)
    if min(given.lrs) <= 0:
        raise UserError(f"--lrs {given.lrs}: learning rates, above 0.")
    if min(given.steps, given.batch_size) < 1:
        raise UserError(f"--steps {given.steps} and --batch_size {given.batch_size} must be at least 1.")
    if any(not 0 < share <= 1 for share in given.fractions):
        raise UserError(f"--fractions {given.fractions}: shares of the labels, above 0 and at most 1, as 0.01 0.1 1.")


def main() -> None:
    parser = PlainParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="what to start from, of this project or another")
    parser.add_argument("--part", default="backbone", choices=["backbone", "teacher"], help="which of its networks")
    add_data(parser)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.01, 0.1, 1.0], help="shares of the labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the draw of labels and of the run")
    parser.add_argument(
        "--lrs", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3], help="learning rates to choose from"
    )
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps of every run")
    parser.add_argument("--batch_size", type=int, default=64, help="images a step, or all there are")
    parser.add_argument("--max_images", type=int | None, help="training images at most, for a table in minutes")
    parser.add_argument("--metric", default="top1", choices=["top1", "mean_per_class"], help="accuracy to report")
    parser.add_argument("--name", type=str | None, help="results/NAME.json is written")
    parser.add_argument("--overwrite", action="store_true", help="replace results/NAME.json")
    with answering_mistakes():
        given = parser.parse_args()
        check(given)
        place = None if given.name is None else record.named(given.name, given.overwrite)
        found = load_backbone(given.checkpoint, given.part)
        limits = {} if given.max_images is None else {"max_train_images": given.max_images}
        data = data_for(given, parser, given.checkpoint, found.images or {}, **limits)
        told, revision = protocol(given, data), commit()
        print(f"{found.origin}, {found.part}: {found.loaded} of {found.loaded} tensors loaded.\n{told}.")
        with silence():
            bench, cells = Bench(given, data, found), []
            for fraction in given.fractions:
                for start in STARTS:
                    cells.append(bench.cell(start, fraction))
                    if place:
                        write(place, found, told, revision, time.perf_counter() - bench.began, cells)
        Console().print(table(cells))
        if place:
            print(f"written: {os.path.relpath(place)}")


def write(place: Path, found: Pretrained, told: str, revision: str, seconds: float, cells: list[Cell]) -> None:
    """Records the table as far as it is, with what it ran on."""
    facts: dict[str, Any] = {"checkpoint": f"{found.origin}, {found.part}", "backbone": asdict(found.config)}
    facts |= {"protocol": told, "commit": revision, "hardware": hardware(), "seconds": round(seconds, 1)}
    record.write(place, facts | {"cells": [asdict(cell) for cell in cells]})


if __name__ == "__main__":
    main()
