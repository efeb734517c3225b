"""Where commands print and write.

A terminal gets its own width and colours, a pipe or file plain, unfolded text.
"""

import os
import sys
from pathlib import Path

from rich.console import Console

from ..errors import RunError

UNFOLDED = 10_000


class _LastingConsole(Console):
    """Goes on silently when the reader of its output has gone: `ravine train DATA | head` trains on."""

    def on_broken_pipe(self) -> None:
        """Send what is still to come nowhere."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> Console:
    """Standard output, for prose and the live table."""
    return _LastingConsole(highlight=False)


def wide_console() -> Console:
    """Standard output, for aligned columns: outside a terminal no line is folded."""
    made = console()
    if not made.is_terminal:
        made.width = UNFOLDED
    return made


def make_place(file: Path) -> None:
    """Make the folders that a file is to lie in, before the work that fills it.

    Raises:
        RunError: they cannot be made, or the file is a folder.
    """
    if file.is_dir():
        raise RunError(f"{file} is a folder; name a file in it")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.filename}: {error.strerror}") from error
