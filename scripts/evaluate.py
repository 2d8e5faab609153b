"""How good is a representation? Runs a suite of protocols on a checkpoint and prints one table.

python scripts/evaluate.py runs/quickstart/version_0/checkpoints/last.ckpt                     # on the run's own data
python scripts/evaluate.py CHECKPOINT --suite full --seeds 0 1 2 --data CIFAR10 --data.path FOLDER
python scripts/evaluate.py moco_v2_800ep_pretrain.pth.tar --data ImageFolder --data.path FOLDER --name moco-v2-800ep

Suites: quick (kNN), standard (kNN and linear), full (also fine-tuned, with all labels, 10 % and 1 % of them). The
result is kept as evaluation.json in the run's folder, or under results/ with --name, row by row as they are measured.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, from anywhere
from jsonargparse import Namespace
from rich.console import Console

from datamodules import ImageDataModule
from datamodules.errors import UserError
from methods.backbones import BackboneConfig
from methods.evaluation.frozen import loaded
from methods.layouts.weights import Part
from methods.pretrained import Pretrained, load_backbone
from scripts.evaluating import record
from scripts.evaluating.protocols import SUITES, Protocol, Row, check_hardware, check_seeds, run
from scripts.evaluating.table import neighbours, results
from scripts.evaluation_data import add_data, data_for, run_config
from scripts.parsing import PlainParser, answering_mistakes
from scripts.quiet import logging_from
from scripts.reproduce import commit, hardware

OF_LOADING = ("views", "masks", "batch_size", "eval_batch_size", "cache", "num_workers", "unreadable")


def parser_of_flags() -> PlainParser:
    """The command line."""
    parser = PlainParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="a checkpoint of this project or of another (docs/checkpoints.md)")
    parser.add_argument("--suite", default="standard", help=f"what to measure: {', '.join(SUITES)}")
    parser.add_argument("--part", default="backbone", help="the network that learned, or its slow copy")
    parser.add_argument("--backbone", type=BackboneConfig | None, help="the network, for files that do not tell")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="several give mean and standard deviation")
    parser.add_argument("--name", type=str | None, help="write results/NAME.json, with commit and hardware")
    parser.add_argument("--overwrite", action="store_true", help="replace results/NAME.json")
    parser.add_argument("--accelerator", default="auto", help="cpu, cuda, mps, or auto")
    parser.add_argument("--precision", default="32-true", help="of the networks' forward passes, such as bf16-mixed")
    add_data(parser)
    return parser


def evaluate(given: Namespace, parser: PlainParser, console: Console) -> None:
    """Does what the command line asks for."""
    trainer = {"accelerator": given.accelerator, "precision": given.precision}
    suite, place = check_flags(given, trainer), place_for(given)
    backbone = BackboneConfig(**given.backbone.as_dict()) if given.backbone else None
    source = load_backbone(given.checkpoint, given.part, backbone)
    console.print(f"{given.checkpoint}: {loaded(source)}", highlight=False)
    data = data_for(given, parser, given.checkpoint, source.images)
    facts = {
        "checkpoint": "/".join(Path(given.checkpoint).parts[-3:]),
        "network": described(source),
        "flags": trainer,
    }
    revision = commit()  # of the code that runs, whatever is edited meanwhile

    def make_data(**changes: Any) -> ImageDataModule:
        return data_for(given, parser, given.checkpoint, source.images, **changes) if changes else data

    network = {"pretrained": given.checkpoint, "part": given.part, "backbone": backbone}
    rows: list[Row] = []
    written = False
    try:
        for protocol in suite:
            console.print(f"{protocol.title} ...", style="dim")
            rows.append(run(protocol, network, make_data, given.seeds, trainer))
            if place is not None:
                kept = [asdict(row) | {"commit": revision, "hardware": hardware()} for row in rows]
                result = facts | {"data": preparation(given, data), "rows": kept}
                (record.write if given.name is not None else record.add)(place, result)
                written = True
    finally:  # also of a suite that is stopped
        if rows:
            show(rows, f"{source.config.name}, {source.origin}, on {images(data)}", console)
        if written and place:
            console.print(f"Written: {os.path.relpath(place)}", highlight=False)
    if not place:
        told = "Not kept, as the checkpoint lies in no run's folder: --name NAME writes results/NAME.json."
        console.print(told, highlight=False)


def check_flags(given: Namespace, trainer: dict[str, Any]) -> tuple[Protocol, ...]:
    """The suite that is asked for.

    Raises:
        UserError: there is no suite or part of that name, or seeds or the Trainer's flags cannot be used.
    """
    for flag, known in (("suite", tuple(SUITES)), ("part", get_args(Part))):
        if given[flag] not in known:
            raise UserError(f"--{flag} {given[flag]} is none of {', '.join(known)}.")
    check_seeds(given.seeds)
    check_hardware(trainer)
    return SUITES[given.suite]


def place_for(given: Namespace) -> Path | None:
    """The file for the result; None where there is none for it."""
    if given.name is not None:
        return record.named(given.name, given.overwrite)
    config = run_config(given.checkpoint)
    return record.of_run(config.parent) if config else None


def show(rows: list[Row], title: str, console: Console) -> None:
    """Prints the table and what could be done better."""
    console.print(title, highlight=False)
    console.print(results(rows))
    for shown in (neighbours(rows), *(hint for row in rows for hint in row.hints)):
        if shown is not None:
            console.print(shown, highlight=False)


def images(data: ImageDataModule) -> str:
    """How many images of what; after the data was set up."""
    val = len(data.val_dataloader().dataset.split.source)  # pyright: ignore[reportAttributeAccessIssue]
    return (
        f"{type(data).__name__}: {data.num_train_images:,} training and {val:,} validation images of "
        f"{data.image_size} px, {data.num_classes} classes"
    )


def preparation(given: Namespace, data: ImageDataModule) -> dict[str, Any]:
    """Which images reach the network, and how, after the data was set up; of paths the last three parts."""
    arguments = {name: value for name, value in given.data.init_args.as_dict().items() if name not in OF_LOADING}
    told = {
        name: "/".join(Path(value).parts[-3:]) if isinstance(value, str) else value for name, value in arguments.items()
    }
    shown = {name: getattr(data, name) for name in ("image_size", "mean", "std")}  # the network's, where no flag says
    return {"name": type(data).__name__, "images": images(data)} | told | shown


def described(source: Pretrained) -> dict[str, Any]:
    """The network, for the record."""
    told = {name: getattr(source, name) for name in ("origin", "part", "loaded", "unused", "batch_norm")}
    return told | {"config": asdict(source.config)}


@contextmanager
def quietly() -> Iterator[None]:
    """Without Lightning's accounts of hardware and of each pass: the table says it all."""
    with logging_from(logging.WARNING), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")
        yield


def main() -> None:
    sys.path.append(os.getcwd())  # a data module in the user's own folder
    with answering_mistakes(), quietly():
        parser = parser_of_flags()
        evaluate(parser.parse_args(), parser, Console())


if __name__ == "__main__":
    main()
