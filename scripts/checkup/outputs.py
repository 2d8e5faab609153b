"""Files that a command is to write."""

import os
from pathlib import Path

from datamodules.errors import UserError


def check_writable(flag: str, file: Path | None, suffix: str = "") -> None:
    """Refuses before the work what could not be written after it.

    Args:
        flag: of the command line.
        file: what it was given; None for nothing.
        suffix: that the file has to end in.

    Raises:
        UserError: its folder is not there or cannot be written to, it is a folder, or it ends otherwise.
    """
    if file is None:
        return
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise UserError(f"{flag} {file}: there is no folder {file.parent} to write to. Give another place.")
    if file.is_dir():
        raise UserError(f"{flag} {file} is a folder: give the name of a file in it.")
    if file.suffix.lower() != suffix and suffix:
        raise UserError(f"{flag} {file} must end in {suffix}.")
