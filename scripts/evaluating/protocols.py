"""What a suite measures: protocols as data, their settings in configs/eval/."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningModule, Trainer, seed_everything

from callbacks import ProgressBar
from datamodules import ImageDataModule
from datamodules.errors import UserError
from methods.evaluation import FineTune
from methods.evaluation.frozen import FrozenEval
from scripts.parsing import PlainParser

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "eval"
ACCURACIES = ("top1", "top5", "mean_per_class")
MakeData = Callable[..., ImageDataModule]


@dataclass(frozen=True)
class Protocol:
    """One row of the table.

    Attributes:
        title: what it is called there.
        config: name of a YAML under configs/eval/, whose model and training length it takes.
        data: arguments of the data module that it sets.
        epochs: length of the training, where it is not the config's.
    """

    title: str
    config: str
    data: dict[str, Any] = field(default_factory=dict)
    epochs: int | None = None


KNN = Protocol("kNN", "knn")
LINEAR = Protocol("Linear", "linear")
FINE_TUNING = (  # fewer labels make shorter epochs: more of them
    Protocol("Fine-tuned", "fine_tune"),
    Protocol("Fine-tuned, 10 % of the labels", "fine_tune", {"label_fraction": 0.1}, epochs=100),
    Protocol("Fine-tuned, 1 % of the labels", "fine_tune", {"label_fraction": 0.01}, epochs=300),
)
SUITES: dict[str, tuple[Protocol, ...]] = {
    "quick": (KNN,),
    "standard": (KNN, LINEAR),
    "full": (KNN, LINEAR, *FINE_TUNING),
}


@dataclass
class Row:
    """What a protocol came to.

    Attributes:
        title: its name.
        accuracies: mean over the seeds, as fractions, by name.
        deviations: standard deviation over several seeds, by the same names.
        seeds: those that it ran with; none where nothing is random.
        protocol: what stands behind the numbers.
        seconds: how long it took.
        others: further accuracies of the same pass.
        hints: what could be done better.
    """

    title: str
    accuracies: dict[str, float]
    deviations: dict[str, float]
    seeds: list[int]
    protocol: str
    seconds: float
    others: dict[str, float] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)


def run(
    protocol: Protocol, network: dict[str, Any], make_data: MakeData, seeds: Sequence[int], hardware: dict[str, Any]
) -> Row:
    """Carries a protocol out.

    Args:
        protocol: which.
        network: arguments `pretrained`, `part` and `backbone` of its module.
        make_data: makes the data module, with changed arguments.
        seeds: for what is random in it.
        hardware: arguments `accelerator` and `precision` of the Trainer.
    """
    settings = yaml.safe_load((CONFIGS / f"{protocol.config}.yaml").read_text())
    began = time.perf_counter()
    if settings["model"]["class_path"] == FineTune.__name__:
        row = _fine_tune(protocol, settings, network, make_data, seeds, hardware)
    else:
        row = _judge(protocol, settings, network, make_data, seeds, hardware)
    row.seconds = round(time.perf_counter() - began, 1)
    return row


def check_seeds(seeds: Sequence[int]) -> None:
    """Whether protocols can run with them.

    Raises:
        UserError: one is out of range or given twice.
    """
    told = f"--seeds {' '.join(map(str, seeds))}"
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise UserError(f"{told}: a seed is a whole number from 0 to {2**32 - 1}.")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{told}: the same seed twice would feign certainty.")


def check_hardware(hardware: dict[str, Any]) -> None:
    """Whether there is a Trainer with these arguments.

    Raises:
        UserError: there is none here.
    """
    try:
        _trainer(hardware)
    except (ValueError, ImportError, MisconfigurationException) as error:
        flags = " ".join(f"--{name} {value}" for name, value in hardware.items())
        raise UserError(f"{flags} cannot be used here: {' '.join(str(error).split())}") from error


def _judge(
    protocol: Protocol, settings: dict, network: dict, make_data: MakeData, seeds: Sequence[int], hardware: dict
) -> Row:
    """A protocol on frozen features, which takes several seeds in one pass."""
    random = {"seeds": list(seeds)} if protocol is LINEAR else {}
    module = _module(settings, network | random)
    assert isinstance(module, FrozenEval), f"{protocol.config}.yaml names another kind of module"
    _seed(seeds[0])
    _trainer(hardware).validate(module, datamodule=make_data(**protocol.data), verbose=False)
    found = module.result
    return Row(
        protocol.title,
        {name: found[name] for name in ACCURACIES if name in found},
        {name: found[f"{name}_std"] for name in ACCURACIES if f"{name}_std" in found},
        list(seeds) if random else [],
        module.protocol(),
        0.0,
        {n: v for n, v in found.items() if n not in ACCURACIES and not n.endswith("_std")},
        module.hints,
    )


def _fine_tune(
    protocol: Protocol, settings: dict, network: dict, make_data: MakeData, seeds: Sequence[int], hardware: dict
) -> Row:
    """One training of all weights for each seed, which also draws the labels."""
    epochs = protocol.epochs or settings["trainer"]["max_epochs"]
    runs, told = [], ""
    for seed in seeds:
        _seed(seed)
        module: Any = _module(settings, network)
        data = make_data(**protocol.data, label_seed=seed)
        data.views = data.views or module.recipe
        data.prepare_data()
        data.setup("validate")
        data.batch_size = min(settings["data"]["init_args"]["batch_size"], data.num_train_images)
        trainer = _trainer(hardware, max_epochs=epochs, check_val_every_n_epoch=epochs, num_sanity_val_steps=0)
        trainer.fit(module, datamodule=data)
        runs.append(module.result)
        told = f"{module.protocol()}; {epochs} epochs of {data.num_train_images:,} images"
    names = [name for name in ACCURACIES if name in runs[0]]
    deviations = {name: stdev(run[name] for run in runs) for name in names} if len(runs) > 1 else {}
    means = {name: mean(run[name] for run in runs) for name in names}
    return Row(protocol.title, means, deviations, list(seeds), told, 0.0)


def _module(settings: dict[str, Any], arguments: dict[str, Any]) -> LightningModule:
    """The module of a config, as cli.py would build it."""
    parser = PlainParser()
    parser.add_subclass_arguments(LightningModule, "model")
    arguments = {name: asdict(value) if is_dataclass(value) else value for name, value in arguments.items()}  # pyright: ignore[reportArgumentType]
    model = {"class_path": settings["model"]["class_path"]}
    model["init_args"] = settings["model"].get("init_args", {}) | arguments
    return parser.instantiate(parser.parse_object({"model": model})).model


def _trainer(hardware: dict[str, Any], **others: Any) -> Trainer:
    """A Trainer that leaves nothing behind."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return Trainer(**quiet, **hardware, **others, devices=1, callbacks=[ProgressBar()])


def _seed(seed: int) -> None:
    """Seeds all generators, and so `run_seed`, which dataloading asks for."""
    seed_everything(seed, verbose=False)
