"""What is told of an exception whose cause a person can mend: a sentence in place of a stack trace."""

import errno
import re
import traceback
from pathlib import Path

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from callbacks.disk import behind, disk_error
from callbacks.summary import relative
from datamodules.errors import UserError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Numbers of what a disk says that takes no more; other errors of the system may be a fault in the program."""
GO_ON = "give the same command again, a run's with --ckpt_path auto to go on from its newest checkpoint."


def answer(error: Exception) -> str | None:
    """The sentence for an exception; None where there is none, so that its stack trace is to be shown."""
    if isinstance(error, SyntaxError):  # in a file of the user's own
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    if isinstance(error, MisconfigurationException):  # Lightning's sentence about flags of the Trainer
        return " ".join(str(error).split())
    told = None
    if isinstance(error, UserError | ValueError):
        told = _of_the_user(error) or _of_a_view(error)
    return told or _of_a_disk(error) or _of_a_worker(error)


def _of_the_user(error: BaseException | None) -> str | None:
    """The user's mistake behind an exception; jsonargparse wraps what a constructor raises into accounts of its own."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error and str(error)


def _of_a_view(error: Exception) -> str | None:
    """A ViewSpec's sentence: jsonargparse keeps nothing but its text, as `views` might have been something else."""
    found = re.search(r"A view's \w+ is [^\n]* in the recipe\.", str(error))
    return found and found[0]


def _of_a_disk(error: Exception) -> str | None:
    """Of one that takes no more."""
    said = disk_error(error)
    if said is None or (isinstance(said, OSError) and said.errno not in FULL):
        return None
    # A checkpoint's sentence comes first: after it the loggers want to write to the same disk, and fail as well.
    if told := next((str(link) for link in behind(error) if isinstance(link, UserError)), None):
        return told
    file, reason = "A file", "its disk takes no more"
    if isinstance(said, OSError):  # which names its file only where that could not even be opened
        file, reason = relative(Path(said.filename)) if said.filename else file, said.strerror
    return (
        f"{file} could not be written ({reason}). Make room on its disk (df -h tells which is full), or mount it for "
        f"writing; then {GO_ON}"
    )


def _of_a_worker(error: Exception) -> str | None:
    """Of a loader's worker that is gone: torch notices by the signal, or by what the worker no longer sends."""
    if not ("DataLoader worker (pid" in str(error) or _in_waiting_for_a_worker(error)):
        return None
    signals = [found[1] for link in behind(error) if (found := re.search(r"killed by signal: ([\w ]+)", str(link)))]
    return (
        f"A worker of the loader died{f' ({signals[0]})' if signals else ''}, mostly for want of memory, or of shared "
        f"memory (/dev/shm). Lower --data.num_workers, or give it more of that; then {GO_ON}"
    )


def _in_waiting_for_a_worker(error: Exception) -> bool:
    """Whether a connection broke over a batch; what a worker itself runs into comes out of another function."""
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, ConnectionError | EOFError | FileNotFoundError) and any(
        code.co_name == "_try_get_data" and code.co_filename.endswith("dataloader.py") for code in frames
    )
