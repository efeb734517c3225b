"""What a Python user calls: one run with its report, and what was trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .training import run as runs
from .training.load import load, load_predictor
from .training.progress import Progress
from .training.recipe import Layer
from .training.run import RecipeLike, Run

__all__ = ["load", "load_predictor", "resume", "train"]


def train(
    model: nn.Module | str | None,
    data: Any,
    recipe: RecipeLike = None,
    *,
    settings: Sequence[Layer] = (),
    out: str | Path | None = None,
    trust: bool = False,
    progress: Progress = runs.SILENT,
) -> Run:
    """Train a network, score it honestly, and leave a run folder with a report.

    Args:
        model: any `nn.Module`; or a model's name or "package.module:factory"; None chooses by the data.
        data: a path or the name of an embedded set; or batches, as an iterable of (inputs, targets) or as
            {"train": ..., "validation": ..., "test": ...} of such iterables.
        recipe: a built-in recipe's name, a TOML file, or the settings as nested dictionaries.
        settings: further settings, as nested dictionaries, that win over the recipe's.
        out: the run folder to make; by default `runs/DATA-DATE-TIME`.
        trust: a recipe file may name the network or the optimizer by `module:name`, which runs that code.
        progress: whom to tell; `ravine.show.terminal.progress()` draws the live table.

    Raises:
        RavineError: its subclasses say what went wrong, see `ravine.errors`; nothing trained is lost.
    """
    return _reported(
        runs.train(model, data, recipe, settings=settings, out=out, trust=trust, progress=progress)
    )


def resume(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    data: Any = None,
    trust: bool = False,
    progress: Progress = runs.SILENT,
) -> Run:
    """Go on with an interrupted run to its end; see `train`.

    Args:
        run: the run folder.
        model: the network, where the run was given one as an object.
        data: the batches, where the run was given batches; or where the data are now, if they moved.
        trust: the run's recipe may name the network or the optimizer by `module:name`, which runs that code.
        progress: whom to tell.

    Raises:
        RavineError: its subclasses say what went wrong.
    """
    return _reported(runs.resume(run, model=model, data=data, trust=trust, progress=progress))


def _reported(run: Run) -> Run:
    from .show.report import write_report

    write_report(run.folder)
    return run
