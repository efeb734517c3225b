"""`ravine recipe`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import RecipeError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from ..registry import Entry

# Every kind of part, its title, and how a recipe names one.
KINDS = {
    "model": ("models", 'model.name = "{}"'),
    "optimizer": ("optimizers", 'optimizer.name = "{}"'),
    "schedule": ("schedules", 'schedule.name = "{}"'),
    "activation": ("activations", 'model.activation = "{}"'),
    "initialization": ("initializations", 'model.initialization = "{}"'),
    "normalization": ("normalizations", 'model.normalization = "{}"'),
    "preprocessing": ("preprocessing", 'data.preprocess = "{}"'),
    "augmentation": ("augmentations", 'augment = ["{}"]'),
    "metric": ("metrics", 'stop.monitor = "validation.{}"'),
    "data": ("data", ""),
}


def recipe(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="A recipe, any part, or MODULE:NAME of an optimizer; without it all are listed.",
        ),
    ] = None,
    kind: Annotated[
        Literal["image", "table", "text"], typer.Option(help="The kind of data that the recipe is for.")
    ] = "image",
) -> None:
    """Print a recipe or a named part; without a name list them all."""
    from .. import registry
    from ..addresses import is_address
    from ..training import parts, recipe_text  # noqa: F401  parts: fills the registry
    from ..training.recipe import named_layer, named_recipes, validate
    from .output import wide_console

    screen = wide_console()
    if name is None:
        _list(screen, named_recipes())
        return
    if name in named_recipes():
        screen.print(
            recipe_text.to_toml(validate([named_layer(name, kind)])), end="", markup=False, soft_wrap=True
        )
        return
    found = [entry for kind in KINDS for entry in registry.entries(kind) if entry.name == name]
    if is_address(name):
        found = [_own(name)]
    if not found:
        known = [*named_recipes(), *(known for kind in KINDS for known in registry.names(kind))]
        hint = nearest(name, known) or "; `ravine recipe` lists them all"
        raise RecipeError([f"there is no recipe or part {name!r}{hint}"])
    for entry in found:
        _describe(screen, entry)


def _own(address: str) -> "Entry":
    """A user's own optimizer, described like those of the registry."""
    from ..docstrings import summary
    from ..registry import Entry
    from ..training import settings

    part = settings.part("optimizer", address)
    return Entry("optimizer", address, summary(part.__doc__), part)


def _list(screen: "Console", recipes: dict[str, str]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from .. import registry

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()

    def section(title: str, lines: dict[str, str]) -> None:
        table.add_row(f"[bold]{title}[/]")
        for name, description in lines.items():
            table.add_row(f"  {name}", escape(description))

    section("recipes", recipes)
    for kind, (title, _) in KINDS.items():
        section(title, {entry.name: entry.description for entry in registry.entries(kind)})
    screen.print(table)
    screen.print("\n[dim]ravine recipe NAME tells more of each[/]")


def _describe(screen: "Console", entry: "Entry") -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..training import settings

    screen.print(f"[bold]{entry.name}[/] · {entry.kind}")
    screen.print(entry.description, markup=False, soft_wrap=True)
    if entry.source:
        screen.print(f"source: {entry.source}", markup=False, style="dim", soft_wrap=True)
    usage = KINDS[entry.kind][1].format(entry.name)
    if usage:
        screen.print(f"in a recipe: {usage}", markup=False, style="dim")
    if entry.kind in settings.WIRING:
        meanings = settings.descriptions(entry.kind, entry.name)
        table = Table.grid(padding=(0, 2))
        for key, parameter in settings.parameters(entry.kind, entry.name).items():
            value = entry.suggested.get(key, parameter.default)
            shown = "(required)" if value is parameter.empty else str(value)
            table.add_row(f"  {key}", escape(shown), escape(meanings.get(key, "")))
        screen.print(table)
    screen.print()
