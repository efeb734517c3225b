"""`ravine lr`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from .options import Data, Device, Model, RecipeName, Seed, Settings, SkipBad, Trust, layers


def lr(
    data: Data,
    model: Model = None,
    recipe: RecipeName = None,
    settings: Settings = None,
    seed: Seed = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Where to draw the picture.  [lr-DATA.html]")
    ] = None,
    skip_bad: SkipBad = False,
    trust: Trust = False,
) -> None:
    """Find a good learning rate: raise it and watch the loss."""
    from ..lab.range_test import DIVERGED, range_test
    from ..show import figures
    from ..show.metric import rate
    from ..show.page import write_figure
    from ..training.run import make_setup
    from .output import console, make_place

    chosen = layers(settings, seed=seed, device=device, skip_bad=skip_bad)
    setup = make_setup(model, data, recipe, settings=chosen, trust=trust)
    name = str(setup.facts["data"])
    page = out or Path("lr-" + re.sub(r"[^\w.-]+", "-", name) + ".html")
    make_place(page)
    found = range_test(setup)
    subject = f"{setup.recipe.model.name} on {name} with {setup.recipe.optimizer.name}"
    answer = "no suggestion" if found.suggestion is None else f"optimizer.lr={rate(found.suggestion)}"
    lead = f"{subject}: {answer}. {found.why[0].upper()}{found.why[1:]}."
    figure = figures.range_test(found.rows, found.suggestion, DIVERGED)
    write_figure(page, figure, "Learning-rate range test", lead)
    screen = console()
    screen.print(subject, style="dim", markup=False)
    screen.print(answer, style="bold", markup=False)
    screen.print(found.why, markup=False)
    screen.print(f"picture {page}", markup=False, soft_wrap=True)
