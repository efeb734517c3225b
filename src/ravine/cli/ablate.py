"""`ravine ablate`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .options import Run, Trust

if TYPE_CHECKING:
    from ..show.terminal import TerminalProgress


def ablate(run: Run, trust: Trust = False) -> None:
    """See what each regularizer of RUN is worth: train without it."""
    from ..lab import ablation
    from ..show import terminal
    from ..show.ablation import lines
    from ..show.report import write_report
    from ..show.run import read_run
    from .output import console

    screen = console()

    @contextmanager
    def watching(heading: str) -> "Iterator[TerminalProgress]":
        screen.print(heading, style="bold", markup=False)
        with terminal.progress(screen) as progress:
            yield progress
        screen.print()

    told = ablation.ablate(run, trust=trust, watching=watching)
    for row in told["without"]:
        write_report(Path(run) / ablation.PLACE / row["key"])
    page = write_report(Path(run))
    for line in lines(read_run(run)):
        screen.print(line, markup=False, soft_wrap=True)
    screen.print(f"report  {page}", markup=False, soft_wrap=True)
