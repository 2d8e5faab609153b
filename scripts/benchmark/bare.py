"""Training steps stripped to the bare networks, which take turns with the steps of a real run inside it."""

import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.stopwatch import REST, Stopwatch
from datamodules.base import ImageDataModule
from datamodules.sources import ArraySource, Source
from datamodules.views import Views
from methods.contrastive import ContrastiveModule


class NoiseImages(ImageDataModule):
    """Random pixels of ten classes: as much work as a data set of this size, and nothing to find."""

    default_image_size = 32

    def __init__(self, num_images: int = 10_000, side: int = 32, **base: Any) -> None:
        """
        Args:
            num_images: of training; there are a tenth as many to validate on.
            side: height and width of the images in pixels.
            base: see `ImageDataModule`.
        """
        super().__init__(**base)
        self.num_images, self.side = num_images, side

    def sources(self) -> tuple[Source, Source]:
        """The same pixels in every run."""
        generator = torch.Generator().manual_seed(0)
        train, val = (self._draw(count, generator) for count in (self.num_images, -(-self.num_images // 10)))
        return train, val

    def _draw(self, count: int, generator: torch.Generator) -> ArraySource:
        images = torch.randint(0, 256, (count, 3, self.side, self.side), generator=generator, dtype=torch.uint8)
        return ArraySource(images, torch.arange(count) % 10, [f"class {i}" for i in range(10)], "noise")


class BareTurns(Callback):
    """Measures a run against its own networks: blocks of its training steps, each followed by as many bare steps.

    A bare step is forward (teachers included), backward and optimiser step of a copy of the networks, in the run's
    precision, on views that are there already: no data, no augmentation, no loss, no moving average, no queue, no
    watchers, no logging, no Lightning. Ends the run when it has seen enough, and writes a JSON file.
    """

    def __init__(self, out: str, block: int = 5, rounds: int = 7, warmup: int = 3) -> None:
        """
        Args:
            out: file to write.
            block: steps of a block.
            rounds: blocks that count.
            warmup: steps before the first block.
        """
        self.out, self.block, self.rounds, self.warmup = Path(out), block, rounds, warmup
        self.fit: list[float] = []  # seconds a step, block by block
        self.bare: list[float] = []
        self._views: Views | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Views, batch_idx: int) -> None:
        """Keeps the first batch of views for the bare steps."""
        if self._views is None:
            assert isinstance(pl_module, ContrastiveModule), "bare steps are defined by `embed`"
            self._views = batch
            self._bare_step = bare_step(trainer, pl_module, batch)
            self._steps = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """At the end of a block: the bare steps' turn."""
        self._steps += 1
        done = self._steps - self.warmup
        if done < 0 or done % self.block:
            return
        wait(pl_module.device)
        if done == 0:
            self._bare_step()  # theirs to warm up
            self._spent = seconds_by_category(trainer)
        else:
            self.fit.append((time.perf_counter() - self._since) / self.block)
            self.bare.append(self._turn(pl_module.device))
        if len(self.fit) == self.rounds:
            self._write(trainer)
            trainer.should_stop = True
        wait(pl_module.device)
        self._since = time.perf_counter()

    def _turn(self, device: torch.device) -> float:
        start = time.perf_counter()
        for _ in range(self.block):
            self._bare_step()
        wait(device)
        return (time.perf_counter() - start) / self.block

    def _write(self, trainer: Trainer) -> None:
        assert self._views is not None
        ratios = sorted(bare / fit for bare, fit in zip(self.bare, self.fit, strict=True))
        spent = {n: s - self._spent.get(n, 0.0) for n, s in seconds_by_category(trainer).items()}
        spent[REST] = sum(self.fit) * self.block - sum(spent.values())
        milliseconds = {name: round(1000 * s / (self.rounds * self.block), 3) for name, s in spent.items()}
        facts = {
            "batch_size": len(self._views.label),
            "fit_images_per_s": len(self._views.label) / statistics.median(self.fit),
            "bare_images_per_s": len(self._views.label) / statistics.median(self.bare),
            **{"efficiency": statistics.median(ratios), "efficiency_min": ratios[0], "efficiency_max": ratios[-1]},
            "milliseconds_a_step": {name: ms for name, ms in milliseconds.items() if ms >= 0.01},
        }
        self.out.write_text(json.dumps(facts, indent=2))


def bare_step(trainer: Trainer, module: ContrastiveModule, views: Views) -> Callable[[], None]:
    """Forward, backward and optimiser step of a copy of the networks, on the same views again and again."""
    module.trainer = None  # the copy is to be without it
    twin, optimizer = copy.deepcopy((module, trainer.optimizers[0]))  # together: the one has the other's parameters
    module.trainer = trainer
    if module.compile_networks:  # a copy is of the networks alone
        for network in twin.networks():
            network.compile()
    context = trainer.precision_plugin.forward_context

    def step() -> None:
        with context():
            outputs = twin.embed(views)
        scalar = sum(output.float().mean() for output in outputs.values() if output.requires_grad)
        optimizer.zero_grad()
        scalar.backward()  # pyright: ignore[reportAttributeAccessIssue]
        optimizer.step()

    return step


def seconds_by_category(trainer: Trainer) -> dict[str, float]:
    """Own seconds so far by the stopwatch, callbacks by class; without what has no name and the bare steps."""
    assert isinstance(trainer.profiler, Stopwatch), "the run's profiler is the stopwatch of configs/defaults.yaml"  # pyright: ignore[reportAttributeAccessIssue]
    seconds: dict[str, float] = {}
    for name, tally in trainer.profiler.categories().items():  # pyright: ignore[reportAttributeAccessIssue]
        seconds |= {part: inner.seconds for part, inner in tally.parts.items()}
        seconds[name] = tally.seconds - sum(inner.seconds for inner in tally.parts.values())
    return {name: value for name, value in seconds.items() if name not in (REST, BareTurns.__name__)}


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
