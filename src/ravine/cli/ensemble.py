"""`ravine ensemble`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import Trust


class How(StrEnum):
    """What is made of the runs."""

    runs = "runs"
    selected = "selected"
    soup = "soup"


def ensemble(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders on the same data.")],
    how: Annotated[
        How,
        typer.Option(help="All runs; those that are best together; or one network of their mean weights."),
    ] = How.runs,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to make.  [runs/DATA-ensemble-DATE-TIME]")
    ] = None,
    trust: Trust = False,
) -> None:
    """Put finished runs together: their mean prediction, scored."""
    from ..lab.ensemble import assemble, assemble_selected, assemble_soup
    from ..show.ensemble import lines
    from ..show.report import write_report
    from ..show.run import read_run
    from .output import console

    if how is How.selected:
        folder = assemble_selected(runs, out, trust=trust)
    elif how is How.soup:
        folder = assemble_soup(runs, out, trust=trust)
    else:
        folder = assemble(runs, out, trust=trust)
    page = write_report(folder)
    screen = console()
    for line in lines(read_run(folder)):
        screen.print(line, markup=False, soft_wrap=True)
    screen.print(f"report  {page}", markup=False, soft_wrap=True)
