"""What several commands take alike: their arguments, and the settings that follow from them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..training.recipe import Layer

DATA = "digits, wine, breast_cancer or diabetes; or the path of a data set."

Data = Annotated[str, typer.Argument(metavar="DATA", help=DATA)]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")]
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME|MODULE:FACTORY", help="The network; by default chosen by the data."),
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", metavar="FILE|NAME", help="A recipe file, or a built-in recipe.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting of the recipe, such as optimizer.lr=0.01."),
]
Seed = Annotated[int | None, typer.Option(metavar="S", help="Decides every random choice.")]
Device = Annotated[str | None, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")]
Trust = Annotated[bool, typer.Option("--trust", help="Run the code that a recipe file or a run names.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable files out, and count them.")]


def layers(
    assignments: Sequence[str] | None,
    *,
    seed: int | None = None,
    device: str | None = None,
    skip_bad: bool = False,
) -> "list[Layer]":
    """The settings of a command's options, as layers over a recipe.

    Raises:
        RecipeError: an assignment is none.
    """
    from ..training.recipe import set_layer

    chosen: list[Layer] = [set_layer(assignments or ())]
    if seed is not None:
        chosen.append({"seed": seed})
    if device is not None:
        chosen.append({"device": device})
    if skip_bad:
        chosen.append({"data": {"skip_bad": True}})
    return chosen
