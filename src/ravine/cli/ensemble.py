"""`ravine ensemble`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..errors import RavineError
from .options import Device, Model, RecipeName, Seed, Settings, SkipBad, Trust, layers

if TYPE_CHECKING:
    from rich.console import Console

    from ..lab.ensemble.plan import How as Trained


class How(StrEnum):
    """Where members come from: the first five are trained, the others are made of finished runs."""

    independent = "independent"
    bagging = "bagging"
    snapshot = "snapshot"
    geometric = "geometric"
    average = "average"
    runs = "runs"
    selected = "selected"
    soup = "soup"


_OF_RUNS = (How.runs, How.selected, How.soup)


def ensemble(
    sources: Annotated[
        list[str], typer.Argument(metavar="DATA|RUN...", help="Data to train on, or finished runs on one.")
    ],
    members: Annotated[
        int | None, typer.Option(metavar="K", help="How many to train.  [5, or one each of --vary]")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,...",
            help="What members differ in besides their seeds: lr, dropout, model, or any setting; "
            "a value may be a list, as [0.9, 0.99].",
        ),
    ] = None,
    how: Annotated[
        How | None,
        typer.Option(
            help="Of DATA: independent members, a bag; of one run snapshots, those of fast geometric cycles, "
            "or the average.  [independent] Of RUNs: all, those that are best together, or one network of "
            "their mean weights.  [runs]"
        ),
    ] = None,
    model: Model = None,
    recipe: RecipeName = None,
    settings: Settings = None,
    seed: Seed = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to make.  [runs/DATA-ensemble-DATE-TIME]")
    ] = None,
    skip_bad: SkipBad = False,
    trust: Trust = False,
) -> None:
    """Average several models: trained for it, or finished runs."""
    from ..show.ensemble import lines
    from ..show.report import write_report
    from ..show.run import read_run
    from .output import console

    screen = console()
    of_runs = len(sources) > 1 or how in _OF_RUNS or _is_run(Path(sources[0]))
    asked = (members, vary, model, recipe, settings, seed, device, skip_bad or None)
    if of_runs and any(option is not None for option in asked):
        raise RavineError("finished runs are taken as they are: leave the options of a training out")
    if of_runs and how not in (None, *_OF_RUNS):
        raise RavineError(
            f"--how {how} trains on one DATA; finished runs go together by {', '.join(_OF_RUNS)}"
        )
    if of_runs:
        folder = _together(sources, how or How.runs, out, trust)
    else:
        chosen = layers(settings, seed=seed, device=device, skip_bad=skip_bad)
        folder = _trained(
            screen, sources[0], how or How.independent, members, vary or [], out,
            model=model, recipe=recipe, settings=chosen, trust=trust,
        )  # fmt: skip
    page = write_report(folder)
    for line in lines(read_run(folder)):
        screen.print(line, markup=False, soft_wrap=True)
    screen.print(f"report  {page}", markup=False, soft_wrap=True)


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("recipe.toml", "ensemble.json"))


def _together(runs: list[str], how: How, out: Path | None, trust: bool) -> Path:
    from ..lab.ensemble import assemble, assemble_selected, assemble_soup

    if how is How.selected:
        return assemble_selected(runs, out, trust=trust)
    return (assemble_soup if how is How.soup else assemble)(runs, out, trust=trust)


def _trained(
    screen: "Console",
    data: str,
    how: How,
    members: int | None,
    vary: list[str],
    out: Path | None,
    **training: Any,
) -> Path:
    from ..lab.ensemble import train_ensemble
    from ..lab.ensemble.plan import combinations
    from ..show.terminal import work

    count = members
    if count is None:
        count = max(2, len(combinations(vary))) if any("=" in text for text in vary) else 5
    with work(screen, "epochs") as watch:
        return train_ensemble(
            data, count, vary=vary, out=out, watch=watch, how=cast("Trained", how.value),
            tell=lambda text: screen.print(text, style="dim", markup=False, soft_wrap=True), **training,
        )  # fmt: skip
