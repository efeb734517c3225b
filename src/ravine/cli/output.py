"""Where commands print: a terminal in its width and colours, a pipe or file as plain, unfolded text."""

import os
import sys

from rich.console import Console

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
