"""Rules about images, batches, speed and memory; each is silent where it does not know enough."""

from scripts.checkup.facts import Facts
from scripts.checkup.finding import Finding, Rule, problem, warning

UNREADABLE = 0.1  # share of the sample from which on the data are suspect
ENLARGED = 0.75  # pictures below this share of the view's side are blown up
SMALL_VIEW = 64  # pixels
LEFT_OUT = 0.1  # share of an epoch's images
WAITING = 0.2  # share of a batch's time that is not the step
FULL = 0.9  # share of the memory
CACHE = 0.5  # share of the memory for decoded images


def unreadable_pictures(facts: Facts) -> Finding | None:
    """Some of the sample cannot be decoded."""
    data = facts.data
    if not data.unreadable:
        return None
    found = f"{len(data.unreadable)} of {data.sampled} sampled cannot be read: {'; '.join(data.unreadable[:3])}"
    if data.stops_at_unreadable:
        return problem(found, "Replace or remove them, or set --data.unreadable skip.")
    if len(data.unreadable) >= UNREADABLE * data.sampled:
        return problem(found, "See whether the data are complete.")
    return warning(found, "They are skipped; replace or remove them.")


def enlarged_pictures(facts: Facts) -> Finding | None:
    """The views are larger than the pictures."""
    side, view = facts.data.shorter_side, facts.data.global_size
    if side is None or view is None or side >= ENLARGED * view:
        return None
    return warning(
        f"views of {view} px are made of pictures of {side} px: blown up, they cost time and show nothing more",
        f"Set --data.image_size {side} (and --model.backbone.small_images true up to {SMALL_VIEW}).",
    )


def no_labels(facts: Facts) -> Finding | None:
    """Nothing says how good the representation is."""
    if facts.data.labelled != 0 or not facts.run.label_watchers:
        return None
    return warning(
        f"no image has a label: {' and '.join(facts.run.label_watchers)} stay off, so no accuracy is shown",
        "Go by the collapse metrics, or label some images (folders of classes, a list with labels).",
    )


def labels_for_training_only(facts: Facts) -> Finding | None:
    """Validation has nothing to count."""
    if not (facts.data.labelled and facts.data.val_labelled == 0 and facts.run.label_watchers):
        return None
    return warning(
        "validation images have no labels: accuracies cannot be counted",
        "Give validation images with the classes of the training images (--data.val_path).",
    )


def one_class(facts: Facts) -> Finding | None:
    """An accuracy of 100 % says nothing."""
    if facts.data.num_classes != 1 or not facts.run.label_watchers:
        return None
    return warning(
        "all images are of one class: every accuracy will be 100 %",
        "Put each class in a folder of its own right below --data.path.",
    )


def labels_needed(facts: Facts) -> Finding | None:
    """A supervised loss without labels."""
    if not facts.model.needs_labels or facts.data.labelled is None or facts.data.labelled == 1:
        return None
    if facts.data.labelled == 0:
        return problem(
            f"{facts.model.name} learns from labels and there are none: each image is a class of its own",
            "Choose another --model, or label the images.",
        )
    return warning(
        f"{facts.model.name} learns from labels, which {1 - facts.data.labelled:.0%} of the images lack",
        "Those count as a class of their own each: leave them out, or choose another --model.",
    )


def batch_larger_than_data(facts: Facts) -> Finding | None:
    """An epoch has no steps."""
    images, batch, ranks = facts.data.train_images, facts.data.batch_size, facts.run.world_size
    if facts.run.batches_per_epoch != 0 or images is None or batch is None:
        return None
    return problem(
        f"an epoch has no steps: {images} images, {batch} a batch on each of {ranks} rank(s)",
        f"Set --data.batch_size to at most {images // ranks}.",
    )


def images_left_out(facts: Facts) -> Finding | None:
    """The incomplete last batch is a large part of the data."""
    images, batch = facts.data.train_images, facts.data.batch_size
    if not images or not batch or not facts.run.batches_per_epoch:
        return None
    left = images % (batch * facts.run.world_size)
    if left < LEFT_OUT * images:
        return None
    return warning(
        f"an epoch leaves {left} of {images} images out, as they fill no batch (others in each epoch)",
        "A smaller --data.batch_size leaves fewer out.",
    )


def too_many_workers(facts: Facts) -> Finding | None:
    """More loading processes than cores."""
    processes = facts.data.num_workers * facts.run.ranks_here
    if processes <= facts.run.cores:
        return None
    return warning(
        f"{processes} loading processes share {facts.run.cores} cores",
        f"Set --data.num_workers {max(1, facts.run.cores // facts.run.ranks_here)}, or leave it out.",
    )


def data_too_slow(facts: Facts) -> Finding | None:
    """The step waits for its images."""
    measured = facts.measured
    if measured is None:
        return None
    batch_seconds = max(measured.loop_seconds, measured.loader_seconds)
    waiting = 1 - measured.step_seconds / batch_seconds
    if waiting < WAITING:
        return None
    views = measured.views_seconds > measured.loader_seconds
    large = (facts.data.shorter_side or 0) > 2 * (facts.data.global_size or 1)
    if views:
        advice = "Views cost the most: fewer or smaller ones, or a recipe without blur, or an accelerator."
    elif large:
        advice = (
            f"Store the pictures smaller once ({2 * (facts.data.global_size or 0)} px are enough), or give more cores "
            "(--data.num_workers)."
        )
    else:
        advice = "Give more cores (--data.num_workers), or keep decoded images in memory (--data.cache ram)."
    return warning(f"data are the bottleneck: the step waits for {waiting:.0%} of the time", advice)


def memory_full(facts: Facts) -> Finding | None:
    """Hardly any memory is left on the device."""
    measured = facts.measured
    if measured is None or measured.memory_peak is None or measured.memory_total is None:
        return None
    ranks = 1 if facts.run.accelerator == "cuda" else facts.run.ranks_here  # ranks on a CPU share its memory
    if ranks * measured.memory_peak <= FULL * measured.memory_total:
        return None
    return warning(
        f"{ranks * measured.memory_peak / measured.memory_total:.0%} of the memory is in use",
        "Set a lower --data.batch_size, or --model.micro_batch_size where the method has it.",
    )


def cache_too_large(facts: Facts) -> Finding | None:
    """Decoded images of all ranks do not fit in the machine's memory."""
    if facts.run.memory is None or facts.data.cache_bytes * facts.run.ranks_here <= CACHE * facts.run.memory:
        return None
    return warning(
        f"{facts.run.ranks_here} rank(s) each keep {facts.data.cache_bytes / 2**30:.1f} GiB of decoded images, more "
        "than half of the memory",
        "Set --data.cache none.",
    )


def disk_full(facts: Facts) -> Finding | None:
    """Checkpoints do not fit on the disk."""
    measured, free = facts.measured, facts.run.free_disk
    if measured is None or free is None:
        return None
    needed = measured.checkpoint_bytes * facts.run.checkpoints_kept
    if needed <= free:
        return None
    return problem(
        f"checkpoints need {needed / 2**30:.1f} GiB, the disk has {free / 2**30:.1f} GiB left",
        "Keep fewer (save_top_k of ModelCheckpoint), or set --trainer.default_root_dir to another disk.",
    )


IMAGES: tuple[Rule, ...] = (unreadable_pictures, enlarged_pictures)
LABELS: tuple[Rule, ...] = (no_labels, labels_for_training_only, one_class, labels_needed)
BATCHES: tuple[Rule, ...] = (batch_larger_than_data, images_left_out)
LOADING: tuple[Rule, ...] = (too_many_workers,)
SPEED: tuple[Rule, ...] = (data_too_slow,)
MEMORY: tuple[Rule, ...] = (memory_full, cache_too_large)
DISK: tuple[Rule, ...] = (disk_full,)
