"""`ravine finetune`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import Device, RecipeName, Seed, Settings, SkipBad, Trust, layers


class How(StrEnum):
    """Which layers train."""

    auto = "auto"
    head = "head"
    top = "top"
    all = "all"


def finetune(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder, a file, or an embedded set.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="What to start from: of ravine zoo list, a file, a run, hf:, timm: or torchvision:NAME.",
        ),
    ],
    how: Annotated[
        How, typer.Option(help="The new head alone, the layers above the best depth, or all; auto measures.")
    ] = How.auto,
    recipe: RecipeName = None,
    settings: Settings = None,
    seed: Seed = None,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run folder to make, or to go on with.  [runs/DATA-DATE-TIME]"),
    ] = None,
    skip_bad: SkipBad = False,
    trust: Trust = False,
) -> None:
    """Train on from a pretrained network."""
    from ..lab.transfer.finetune import RECIPE
    from ..lab.transfer.finetune import finetune as go
    from ..show import terminal
    from ..show.report import write_report
    from ..show.run import read_run
    from ..show.transfer import lines
    from .output import console

    screen = console()
    chosen = layers(settings, seed=seed, device=device, skip_bad=skip_bad)
    with terminal.progress(screen) as progress:
        folder = go(
            data, source, how.value, recipe=recipe or RECIPE, settings=chosen, out=out, trust=trust,
            progress=progress, tell=lambda text: screen.print(text, markup=False, soft_wrap=True),
            trained=write_report,
        )  # fmt: skip
    page = write_report(folder)
    for line in lines(read_run(folder)):
        screen.print(line, markup=False, soft_wrap=True)
    screen.print(f"report  {page}", markup=False, soft_wrap=True)
