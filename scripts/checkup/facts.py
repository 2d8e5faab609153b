"""What is known of a run before it begins: read from its configuration, looked up in its data, or measured."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataFacts:
    """The images; None where the data module does not say."""

    train_images: int | None = None
    val_images: int | None = None
    num_classes: int | None = None
    labelled: float | None = None
    """Share of the training images with a label."""
    val_labelled: float | None = None
    sampled: int = 0
    """Training pictures that were decoded to see whether they can be read."""
    unreadable: tuple[str, ...] = ()
    """Names of those that cannot, with the reason."""
    stops_at_unreadable: bool = False
    shorter_side: int | None = None
    """Median of the sampled pictures, in pixels."""
    global_size: int | None = None
    """Side of the largest global view, in pixels."""
    num_global_views: int | None = None
    num_local_views: int = 0
    batch_size: int | None = None
    """Images per rank and batch."""
    num_workers: int = 0
    """Loading processes per rank."""
    cache_bytes: int = 0
    """Decoded images that rest in memory; 0 where each epoch decodes anew."""


@dataclass(frozen=True)
class RunFacts:
    """The Trainer's settings."""

    accelerator: str = "cpu"
    world_size: int = 1
    ranks_here: int = 1
    """Ranks on this machine."""
    cores: int = 1
    precision: str = "32-true"
    bf16_in_hardware: bool = True
    accumulate: int = 1
    """Batches per optimiser step."""
    max_epochs: float = 1000
    """Infinite where steps alone end the run."""
    batches_per_epoch: float | None = None
    """Per rank; None where it is not known."""
    total_steps: float | None = None
    """Optimiser steps of the run."""
    check_val_every_n_epoch: int | None = 1
    """None where validation counts batches."""
    validates: bool = True
    label_watchers: tuple[str, ...] = ()
    """Callbacks that need labels."""
    checkpoints_kept: float = 0
    """Files at the same time, the one being written included."""
    free_disk: int | None = None
    """Bytes where checkpoints are written."""
    memory: int | None = None
    """Bytes of the machine."""


@dataclass(frozen=True)
class ModelFacts:
    """The method and its optimiser."""

    name: str = ""
    arguments: frozenset[str] = frozenset()
    """What it is told on the command line, after `--model.`"""
    num_global_views: int | None = None
    """Global views of an image that it takes; None for any number."""
    takes_local_views: bool = True
    needs_labels: bool = False
    backbone: str = ""
    small_images: bool = False
    """Whether the backbone has the stem for small images."""
    has_batch_norm: bool = False
    batch_norm: str = "local"
    micro_batch_size: int | None = None
    queues: dict[str, int] = field(default_factory=dict)
    """Name -> length of each queue."""
    teacher_momentum: float | None = None
    """At the start; None without a teacher."""
    teacher_left: float | None = None
    """Share of the initial network in the teacher when the run ends."""
    optimizer: str | None = None
    lr: float | None = None
    """As given, for `lr_base_batch` images."""
    peak_lr: float | None = None
    """After scaling."""
    lr_scaling: str = "none"
    warmup_epochs: float = 0.0
    milestones: tuple[float, ...] = ()

    def flag(self, argument: str, otherwise: str) -> str:
        """The flag of an argument, where the method has it; methods of one's own may call it otherwise, or fix it."""
        return f"--model.{argument}" if argument in self.arguments else otherwise


@dataclass(frozen=True)
class Measured:
    """A short trial of the run on one device: seconds are means per batch, bytes counted where not said otherwise."""

    images: int
    """Images per batch."""
    loader_seconds: float
    """Until the next batch is there, with nothing else to do."""
    views_seconds: float
    """From the loader's batch to views on the device."""
    step_seconds: float
    """Forward, backward, optimiser, teacher and queue on a batch that is there."""
    loop_seconds: float
    """All of it together, as the run does it."""
    timed: tuple[int, int, int]
    """Batches that loader and views, step, and loop were timed over."""
    parameter_bytes: int
    """Parameters and buffers, teachers and queues included."""
    optimizer_bytes: int
    checkpoint_bytes: int
    memory_before: int | None
    """In use before the first step: by tensors on an accelerator, else by the process; None if it cannot be told."""
    memory_peak: int | None
    """The highest during the steps: kept by torch on an accelerator, else sampled."""
    memory_total: int | None
    """Of the device."""


@dataclass(frozen=True)
class Facts:
    """All that the rules judge by."""

    data: DataFacts = DataFacts()
    run: RunFacts = RunFacts()
    model: ModelFacts = ModelFacts()
    measured: Measured | None = None

    @property
    def global_batch(self) -> int | None:
        """Images per optimiser step, over all ranks and accumulated batches."""
        return self.data.batch_size and self.data.batch_size * self.run.world_size * self.run.accumulate
