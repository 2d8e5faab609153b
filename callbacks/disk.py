"""Files on disks that may be full: whole or not there, and what a disk has said."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

TORCH_SAYS = ("file write failed", "unexpected pos")
"""How torch's writer puts it that its file is shorter than what it wrote."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that is to be at `path` whole or not at all.

    Args:
        path: of the file; its folder is there.

    Yields:
        A path beside it. What is written there takes the file's place; after any exception, Ctrl-C too, it is removed,
        and what was at `path` before still is.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def behind(error: BaseException) -> Iterator[BaseException]:
    """An exception, and those it was raised from or over, the newest first."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def disk_error(error: BaseException) -> OSError | RuntimeError | None:
    """What a disk said, where that is behind an exception: torch's writer raises one of its own over it.

    Args:
        error: whatever came of writing.

    Returns:
        The OSError, else torch's own; None where the exception is of another kind.
    """
    links = list(behind(error))
    said = (link for link in links if isinstance(link, OSError))
    told_by_torch = (
        link for link in links if isinstance(link, RuntimeError) and any(words in str(link) for words in TORCH_SAYS)
    )
    return next(chain(said, told_by_torch), None)
