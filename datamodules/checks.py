"""What the arguments of a data module are checked for before its images are looked at."""

from typing import Any

from datamodules.errors import UserError


def check_arguments(data: Any) -> None:
    """Refuses sizes below 1, less than no workers, and a normalisation of another number of channels.

    Called by `setup` and not by the constructor, where the command line's parser would bury the sentence in its own.

    Args:
        data: an `ImageDataModule`.

    Raises:
        UserError: naming the argument.
    """
    for name in ("image_size", "batch_size", "eval_batch_size"):
        if getattr(data, name) < 1:
            raise UserError(f"data.{name} is {getattr(data, name)}; it must be at least 1.")
    if data.num_workers is not None and data.num_workers < 0:
        raise UserError(f"data.num_workers is {data.num_workers}; it must be at least 0, or null for a choice.")
    for name in ("mean", "std"):
        if len(getattr(data, name)) != data.num_channels:
            raise UserError(
                f"data.{name} is {getattr(data, name)}, but the images have {data.num_channels} channel(s): give one "
                "number for each."
            )
