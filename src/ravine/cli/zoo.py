"""`ravine zoo`: the pretrained networks there are."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ModelError, RavineError

if TYPE_CHECKING:
    from ..transfer.zoo.card import Card

zoo = typer.Typer(help="Pretrained networks to start from.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE|RUN",
        help="A network of ravine zoo list, a file, a run folder, or hf:, timm: or torchvision:NAME.",
    ),
]


@zoo.command("list")
def list_() -> None:
    """Every network, with what it was trained on."""
    from rich.markup import escape
    from rich.table import Table

    from ..transfer.zoo.shelf import card_of, shelves
    from .output import wide_console

    table = Table(box=None, pad_edge=False)
    for head in ("name", "network", "images", "trained on", "score", "licence"):
        table.add_column(head, no_wrap=head == "name")
    damaged = []
    for folder in shelves():
        try:
            card = card_of(folder)
        except ModelError as error:
            damaged.append(f"{folder.name}: {error}")
            continue
        shape = "×".join(map(str, card.shape)) or "text"
        row = (card.name, card.architecture, shape, card.data, card.score, card.licence)
        table.add_row(*map(escape, row))
    wide_console().print(table)
    for line in damaged:
        wide_console().print(line, markup=False, highlight=False, soft_wrap=True)


@zoo.command()
def show(name: Name) -> None:
    """All that is known of a network."""
    from ..training.pretrained import open_source
    from ..transfer.zoo.shelf import card_of, shelves
    from .output import console

    # A card of the shelf is shown without its weights, which may be damaged, or large; a run folder or a file
    # of the same name comes first, as everywhere.
    kept = {folder.name: folder for folder in shelves()}
    own = name in kept and not Path(name).exists()
    card = card_of(kept[name]) if own else open_source(name).card
    for key, value in card.to_json().items():
        if key == "classes" and len(value) > 20:
            value = f"{len(value)} classes"
        if value not in ("", [], None):
            console().print(f"{key:<13}{value}", markup=False, highlight=False, soft_wrap=True)


@zoo.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    file: Annotated[Path, typer.Argument(metavar="FILE|RUN", help="Its weights, or a run folder.")],
    architecture: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Its network, where the file's layout is not known.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the network.")
    ] = None,
    shape: Annotated[str | None, typer.Option(metavar="C,H,W", help="Of the images it takes.")] = None,
    outputs: Annotated[int | None, typer.Option(metavar="N", help="Of its head.")] = None,
    mean: Annotated[str | None, typer.Option(metavar="M,...", help="Of each channel, in [0, 1].")] = None,
    std: Annotated[str | None, typer.Option(metavar="S,...", help="Of each channel, in [0, 1].")] = None,
    data: Annotated[str, typer.Option(help="What it was trained on.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "",
    source: Annotated[str, typer.Option(help="Where they are from.")] = "",
    score: Annotated[str, typer.Option(help="What it reached.")] = "",
) -> None:
    """Keep a network among your own."""
    from dataclasses import replace

    from ..training.recipe import set_layer
    from ..transfer.zoo.card import Card
    from ..transfer.zoo.opening import open_file
    from ..transfer.zoo.shelf import RECIPE, put
    from .output import console

    recipe = ""
    known: dict[str, object] = {"--set": settings, "--shape": shape, "--outputs": outputs}
    if (file / "recipe.toml").is_file():
        from ..training.pretrained_run import open_run

        known |= {"--architecture": architecture, "--mean": mean, "--std": std}
        _refuse(known, f"{file} is a run, which knows its network")
        opened = open_run(file)
        recipe = (file / "recipe.toml").read_text(encoding="utf-8")
    elif architecture is None:
        opened = open_file(file)
        _refuse(known, f"{file} is of a layout that says what its network is")
        opened.card = _prepared(opened.card, mean, std)
    else:
        if shape is None or outputs is None:
            raise RavineError("--architecture needs --shape and --outputs, too")
        sizes = tuple(map(int, _numbers(shape, "shape", 3, least=1, whole=True)))
        card = Card(
            name=name,
            architecture=architecture,
            settings=dict(set_layer(settings or ())),
            shape=sizes,
            mean=(0.5,) * sizes[0],
            std=(0.5,) * sizes[0],
            outputs=outputs,
        )
        opened = open_file(file, _prepared(card, mean, std))
    card = replace(
        opened.card,
        name=name,
        data=data or opened.card.data,
        licence=licence or opened.card.licence,
        source=source or opened.card.source or str(file),
        score=score or opened.card.score,
        recipe=f"ravine train DATA --recipe {RECIPE}" if recipe else "",
    )
    place = put(card, opened.module.state_dict(), recipe)
    console().print(str(place), markup=False, soft_wrap=True)


@zoo.command()
def check() -> None:
    """Whether every file is the one of its card, and fits its network."""
    from ..transfer.zoo.opening import open_model
    from ..transfer.zoo.shelf import shelves
    from .output import console

    bad = 0
    for folder in shelves():
        try:
            open_model(folder.name)
            told = "as it should be"
        except RavineError as error:
            bad += 1
            told = str(error)
        console().print(f"{folder.name}: {told}", markup=False, highlight=False, soft_wrap=True)
    if bad:
        raise ModelError(f"{bad} of {len(shelves())} networks cannot be used")


def _prepared(card: "Card", mean: str | None, std: str | None) -> "Card":
    """The card of a network whose images a person says how to prepare: no file of weights has it."""
    from dataclasses import replace

    channels = card.shape[0]
    return replace(
        card,
        mean=card.mean if mean is None else _numbers(mean, "mean", channels, least=0),
        std=card.std if std is None else _numbers(std, "std", channels, least=1e-6),
    )


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Refuse what would be ignored."""
    if given := [name for name, value in options.items() if value not in (None, [])]:
        raise RavineError(f"{', '.join(given)}: {why}; leave {'it' if len(given) == 1 else 'them'} out")


def _numbers(text: str, option: str, count: int, *, least: float, whole: bool = False) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    fine = all(least <= number < float("inf") and (not whole or number == int(number)) for number in numbers)
    if len(numbers) != count or not fine:
        told = "whole numbers" if whole else "numbers"
        raise RavineError(
            f"--{option} {text!r}: write {count} {told}, at least {least:g}, with commas between"
        )
    return numbers
