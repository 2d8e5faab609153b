"""Keeps libraries' own accounts out of a terminal that has something else to say."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LIGHTNING = ("pytorch_lightning", "lightning_fabric")


@contextmanager
def logging_from(level: int, *names: str) -> Iterator[None]:
    """Lets loggers say only what is of a level or above it, and gives them back their own levels at the end.

    Args:
        level: such as `logging.ERROR`.
        names: the loggers; Lightning's without any.
    """
    loggers = [logging.getLogger(name) for name in names or LIGHTNING]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(level)
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)
