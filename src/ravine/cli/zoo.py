"""`ravine zoo`: the pretrained networks there are."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ModelError, RavineError

zoo = typer.Typer(help="Pretrained networks to start from.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A network of ravine zoo list.")]


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
    for folder in shelves():
        card = card_of(folder)
        shape = "×".join(map(str, card.shape)) or "text"
        row = (card.name, card.architecture, shape, card.data, card.score, card.licence)
        table.add_row(*map(escape, row))
    wide_console().print(table)


@zoo.command()
def show(name: Name) -> None:
    """All that is known of a network."""
    from ..transfer.zoo.shelf import card_of, find
    from .output import console

    card = card_of(find(name))
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
    if (file / "recipe.toml").is_file():
        from ..training.pretrained_run import open_run

        opened = open_run(file)
        recipe = (file / "recipe.toml").read_text(encoding="utf-8")
    elif architecture is None:
        opened = open_file(file)
    else:
        if shape is None or outputs is None:
            raise RavineError("--architecture needs --shape and --outputs, too")
        sizes = tuple(map(int, _numbers(shape, "shape", 3, least=1, whole=True)))
        channels = sizes[0]
        card = Card(
            name=name,
            architecture=architecture,
            settings=dict(set_layer(settings or ())),
            shape=sizes,
            mean=_numbers(mean, "mean", channels, least=0) if mean else (0.5,) * channels,
            std=_numbers(std, "std", channels, least=1e-6) if std else (0.5,) * channels,
            outputs=outputs,
        )
        opened = open_file(file, card)
    card = replace(
        opened.card,
        name=name,
        data=data or opened.card.data,
        licence=licence,
        source=source or str(file),
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
