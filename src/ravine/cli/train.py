"""`ravine train`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import RavineError
from .options import DATA, Device, Model, RecipeName, Seed, Settings, SkipBad, Trust, layers


def train(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA)] = None,
    model: Model = None,
    recipe: RecipeName = None,
    settings: Settings = None,
    seed: Seed = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run folder to make.  [runs/DATA-DATE-TIME]")
    ] = None,
    skip_bad: SkipBad = False,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run, to the same end.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Train a network on DATA; leave a run folder with a report."""
    given = (model, recipe, settings, seed, device, out, skip_bad or None)
    if resume is not None and any(option is not None for option in given):
        raise RavineError(
            "--resume goes on with the run's own recipe and folder: leave the other options out"
        )
    if resume is None and data is None:
        raise RavineError("name the DATA to train on, or the run to go on with: --resume RUN")
    from ..show import terminal
    from ..show.report import write_report
    from ..training import run as runs
    from .output import console

    with terminal.progress(console()) as progress:
        if resume is not None:
            run = runs.resume(resume, data=data, trust=trust, progress=progress)
        else:
            chosen = layers(settings, seed=seed, device=device, skip_bad=skip_bad)
            run = runs.train(model, data, recipe, settings=chosen, out=out, trust=trust, progress=progress)
    write_report(run.folder)
