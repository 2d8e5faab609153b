"""Rules about the method, its optimiser and the Trainer's settings; each is silent where it does not know enough."""

import math

from scripts.checkup.facts import Facts
from scripts.checkup.finding import Finding, Rule, problem, warning

SMALL_VIEW = 64  # pixels
FEW = 8  # images that give BatchNorm usable statistics, in a group
LARGE_STEM = ("resnet", "resnext", "wide_resnet", "timm/resnet")
RATES = {  # optimiser -> lowest and highest usual peak rate, and the rate above which it will hardly learn
    "adam": (1e-6, 1e-2, 5e-2),
    "adamw": (1e-6, 1e-2, 5e-2),
    "sgd": (1e-4, 5.0, 50.0),
    "lars": (1e-2, 20.0, 200.0),
}


def views_do_not_fit(facts: Facts) -> Finding | None:
    """Another number of views than the method takes."""
    model, data = facts.model, facts.data
    own = "Choose another --data.views, or leave it out for the method's own."
    if data.num_global_views is not None and model.num_global_views not in (None, data.num_global_views):
        return problem(
            f"{model.name} takes {model.num_global_views} global views, the recipe makes {data.num_global_views}", own
        )
    if data.num_local_views and not model.takes_local_views:
        return problem(f"{model.name} takes no local views, the recipe makes {data.num_local_views}", own)
    return None


def stem_too_large(facts: Facts) -> Finding | None:
    """The stem for 224 px on small images."""
    view = facts.data.global_size
    if view is None or view > SMALL_VIEW or facts.model.small_images or not facts.model.backbone.startswith(LARGE_STEM):
        return None
    return warning(
        f"{facts.model.backbone} shrinks views of {view} px by 32: its last feature maps have a pixel or two",
        "Set --model.backbone.small_images true.",
    )


def queue_longer_than_data(facts: Facts) -> Finding | None:
    """An image meets its own older view in the queue."""
    images = facts.data.train_images
    if images is None or not facts.model.queues:
        return None
    name, size = max(facts.model.queues.items(), key=lambda item: item[1])
    if size < images:
        return None
    return warning(
        f"{name} holds {size} keys, the training set only {images} images: images meet their own older views in it, as "
        "false negatives",
        f"Set {facts.model.flag('queue_size', 'the length of its queue')} well below {images}.",
    )


def queue_never_full(facts: Facts) -> Finding | None:
    """Random keys stay in the queue to the end."""
    steps, batch = facts.run.total_steps, facts.global_batch
    if not facts.model.queues or steps is None or batch is None:
        return None
    name, size = max(facts.model.queues.items(), key=lambda item: item[1])
    if steps * batch >= size:
        return None
    return warning(
        f"{name} holds {size} keys and the run has {steps * batch:.0f} images: random keys stay in it to the end",
        f"Set {facts.model.flag('queue_size', 'the length of its queue')} to at most {steps * batch / 10:.0f}, or "
        "train for longer.",
    )


def uneven_groups(facts: Facts) -> Finding | None:
    """BatchNorm's groups, or micro-batches, are of different sizes."""
    batch, micro, groups = facts.data.batch_size, facts.model.micro_batch_size, _num_groups(facts)
    if batch is None or not facts.model.has_batch_norm:
        return None
    if micro is not None and micro < batch and batch % micro:
        return warning(
            f"micro-batches of {micro} do not divide a batch of {batch}: the last has {batch % micro} images, and "
            "BatchNorm other statistics",
            f"Set --model.micro_batch_size to a divisor of {batch}.",
        )
    rows = min(micro or batch, batch)
    if rows % groups:
        return warning(
            f"split:{groups} does not divide {rows} images: BatchNorm's groups are of unequal size",
            f"Set --data.batch_size to a multiple of {groups}.",
        )
    return None


def tiny_norm_groups(facts: Facts) -> Finding | None:
    """BatchNorm normalises over too few images."""
    smallest = smallest_norm_group(facts)
    if smallest is None or smallest >= FEW:
        return None
    advice = "Set a larger --data.batch_size, --model.batch_norm sync on several ranks, or --model.batch_norm none."
    if smallest <= 1:
        return problem(
            "BatchNorm takes its statistics of a single image: behind the pooling nothing is left of it",
            advice,
        )
    return warning(f"BatchNorm takes its statistics of {smallest} images: mostly noise", advice)


def smallest_norm_group(facts: Facts) -> int | None:
    """Images that BatchNorm takes its statistics of, where they are fewest; None without BatchNorm."""
    batch, micro = facts.data.batch_size, facts.model.micro_batch_size
    if batch is None or not facts.model.has_batch_norm or facts.model.batch_norm == "none":
        return None
    rows = batch if micro is None or micro >= batch else batch % micro or micro
    return rows * facts.run.world_size if facts.model.batch_norm == "sync" else rows // _num_groups(facts)


def _num_groups(facts: Facts) -> int:
    kind, _, count = facts.model.batch_norm.partition(":")
    return int(count) if kind == "split" else 1


def unusual_rate(facts: Facts) -> Finding | None:
    """A learning rate that the optimiser is not known to work with."""
    model = facts.model
    name, rate = (model.optimizer or "").lower(), model.peak_lr
    if rate is None:
        return None
    if rate == 0:
        return problem("the learning rate is 0: nothing will be learned", "Set --model.optim.lr.")
    if name not in RATES:
        return None
    lowest, highest, hopeless = RATES[name]
    found = f"a rate of {rate:g} after scaling is {'low' if rate < lowest else 'high'} for {name}"
    usual = f"Usual are {lowest:g} to {highest:g}: see --model.optim.lr, lr_scaling and lr_base_batch."
    if rate > hopeless:
        return problem(found, usual)
    return None if lowest <= rate <= highest else warning(found, usual)


def schedule_longer_than_run(facts: Facts) -> Finding | None:
    """Warm-up or milestones that the run does not reach."""
    epochs, model = _epochs(facts), facts.model
    if model.optimizer is None:
        return None
    if model.warmup_epochs and model.warmup_epochs >= epochs:
        return problem(
            f"the warm-up takes {model.warmup_epochs:g} epochs, the run has {epochs:.3g}: its rate is never reached",
            "Set --model.optim.warmup_epochs to a tenth of the run, or train for longer.",
        )
    beyond = [epoch for epoch in model.milestones if epoch >= epochs]
    if beyond:
        return warning(
            f"the rate falls at epoch {', '.join(f'{epoch:g}' for epoch in beyond)}, the run has {epochs:.3g}",
            "Set --model.optim.milestones within the run.",
        )
    return None


def _epochs(facts: Facts) -> float:
    """Epochs of the run, whichever limit comes first."""
    run = facts.run
    if not run.total_steps or not run.batches_per_epoch:
        return run.max_epochs
    return min(run.max_epochs, run.total_steps / math.ceil(run.batches_per_epoch / run.accumulate))


def teacher_stays_behind(facts: Facts) -> Finding | None:
    """At the end, the teacher is still mostly the network of the start."""
    left, steps = facts.model.teacher_left, facts.run.total_steps
    if left is None or steps is None or left <= 0.5:
        return None
    return warning(
        f"after {steps:.0f} steps the teacher is still {left:.0%} the network of the start: momentum "
        f"{facts.model.teacher_momentum:g} halves it in {half_life(facts.model.teacher_momentum or 0):.0f} steps",
        f"Set {facts.model.flag('teacher_momentum', 'the momentum of its EMAPair')} to at most "
        f"{0.5 ** (10 / max(10.0, steps)):.3g}, or train for longer.",
    )


def half_life(momentum: float) -> float:
    """Steps in which half of a teacher is replaced; infinite for a momentum of 1."""
    if momentum <= 0:
        return 0.0
    return math.inf if momentum >= 1 else math.log(0.5) / math.log(momentum)


def bf16_emulated(facts: Facts) -> Finding | None:
    """bf16 without instructions for it."""
    if not facts.run.precision.startswith("bf16") or facts.run.bf16_in_hardware:
        return None
    device = "GPU" if facts.run.accelerator == "cuda" else "processor"
    return warning(
        f"this {device} has no instructions for bf16: it is emulated, slower than fp32",
        "Set --trainer.precision 32-true, or 16-mixed on a GPU.",
    )


def shuffle_on_one_rank(facts: Facts) -> Finding | None:
    """Rows of one rank in another order have the same statistics."""
    if facts.model.batch_norm != "shuffle" or facts.run.world_size > 1:
        return None
    return warning(
        "batch_norm shuffle mixes images of several ranks, and there is one: nothing is hidden from the keys",
        "Set --model.batch_norm split:8.",
    )


def validation_never_reached(facts: Facts) -> Finding | None:
    """The run ends before its first validation."""
    every = facts.run.check_val_every_n_epoch
    if not facts.run.validates or every is None or every <= _epochs(facts):
        return None
    return warning(
        f"validation comes every {every} epochs, the run has {_epochs(facts):.3g}: no accuracy will be known",
        "Set --trainer.check_val_every_n_epoch lower.",
    )


VIEWS: tuple[Rule, ...] = (views_do_not_fit, stem_too_large)
QUEUE: tuple[Rule, ...] = (queue_longer_than_data, queue_never_full)
NORMS: tuple[Rule, ...] = (uneven_groups, tiny_norm_groups, shuffle_on_one_rank)
RATE: tuple[Rule, ...] = (unusual_rate, schedule_longer_than_run)
TEACHER: tuple[Rule, ...] = (teacher_stays_behind,)
PRECISION: tuple[Rule, ...] = (bf16_emulated,)
VALIDATION: tuple[Rule, ...] = (validation_never_reached,)
