"""`ravine report`."""

from pathlib import Path

import typer

from .options import Run


def report(run: Run) -> None:
    """Draw the report of RUN again."""
    from ..show.report import write_report

    typer.echo(write_report(Path(run)))
