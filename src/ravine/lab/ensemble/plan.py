"""What is trained to make an ensemble: how many runs, with which settings, kept after which epochs."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ...errors import RecipeError
from ...training.recipe import Layer, Recipe, merge, set_layer

How = Literal["independent", "bagging", "snapshot", "geometric", "average"]

OF_ONE_RUN = ("snapshot", "geometric", "average")
"""Those whose members are the weights of one run after some of its epochs."""

_SHORT = {"lr": "optimizer.lr", "model": "model.name", "dropout": "regularize.dropout"}

# Fast geometric cycles take so much of one run, or an epoch each.
_CYCLES = 0.5
# An average is of the weights after so many of the last epochs, in parts of all; the rate stays high.
_TAIL, _HIGH = 0.25, 0.3

# Commas that part values, not those within a list such as [0.9, 0.99].
_COMMA = re.compile(r",(?![^\[]*\])")


class Plan(NamedTuple):
    """The trainings of an ensemble.

    Attributes:
        settings: of all.
        members: of each.
        keep: the epochs, counted from 1, whose weights are the members; empty where each has its best ones.
        told: what a person should know of it; empty where there is nothing.
    """

    settings: list[Layer]
    members: list[Layer]
    keep: list[int]
    told: str = ""


def plan(how: How, members: int, recipe: Recipe, vary: Sequence[str], asked: Sequence[Layer]) -> Plan:
    """The trainings of an ensemble.

    Args:
        how: where the members come from.
        members: how many.
        recipe: that of one run, with every value concrete.
        vary: what members differ in besides their seeds, as "KEY=VALUE,VALUE,...".
        asked: the settings of all members that were asked for, over a recipe's.

    Raises:
        RecipeError: there cannot be so many of one run; they would leave values of `vary` out; a setting that
            was asked for, or `vary`, is not possible with `how`.
    """
    if members < 2:
        raise RecipeError([f"an ensemble has two members or more, not {members}"])
    if how in OF_ONE_RUN:
        return _of_one_run(how, members, recipe, vary, asked)
    ways = combinations(vary)
    drawn: Layer = {"data": {"bootstrap": True}} if how == "bagging" else {}
    for way in ways:
        _refuse_overruled(how, drawn, merge([*asked, way]))
    if members < len(ways):
        raise RecipeError([f"vary: it has {len(ways)} combinations: ask for as many members, not {members}"])
    turns = zip(range(members), itertools.cycle(ways), strict=False)
    return Plan(
        [{"data": {"split": recipe.split_seed}}],
        [{"seed": recipe.seed + number, **_joined([drawn, way])} for number, way in turns],
        [],
    )


def combinations(vary: Sequence[str]) -> list[dict[str, Any]]:
    """The settings of members that differ in what `vary` says: every combination, the last key first.

    Raises:
        RecipeError: one is not "KEY=VALUE,VALUE,...", or is of the same key as another.
    """
    axes: list[list[Layer]] = []
    keys: set[str] = set()
    for text in vary:
        key, equals, values = text.partition("=")
        if key == "seed" and not equals:
            continue  # seeds always differ
        if not equals or not values:
            raise RecipeError([f"vary: {text!r} is not KEY=VALUE,VALUE,... such as lr=0.001,0.01"])
        key = _SHORT.get(key, key)
        if key in keys:
            raise RecipeError([f"vary: {key} is there twice; give all its values once"])
        keys.add(key)
        axes.append([set_layer([f"{key}={value}"]) for value in _COMMA.split(values)])
    return [_joined(chosen) for chosen in itertools.product(*axes)]


def _of_one_run(how: How, members: int, recipe: Recipe, vary: Sequence[str], asked: Sequence[Layer]) -> Plan:
    if vary:
        raise RecipeError([f"vary: the members of how = {how!r} are of one run; leave it out"])
    epochs = int(recipe.stop.epochs)
    if members > epochs:
        raise RecipeError(
            [
                f"stop.epochs = {epochs}: how = {how!r} takes the weights after {members} epochs of one run; "
                "ask for more epochs, or for fewer members"
            ]
        )
    if how == "snapshot":
        period = epochs // members
        keep = [period * number for number in range(1, members + 1)]
        schedule: Layer = {"name": "cosine_restarts", "period": f"{period} epochs"}
        rate = f"falls to nothing every {_epochs(period)}"
    elif how == "geometric":
        period = max(1, round(_CYCLES * epochs / (members - 1)))
        keep = [epochs - period * number for number in reversed(range(members))]
        schedule = {"name": "fast_geometric", "start": f"{keep[0]} epochs", "period": f"{period} epochs"}
        rate = f"goes up and down every {_epochs(period)} from the end of epoch {keep[0]} on"
    else:
        last = min(epochs, max(members, round(_TAIL * epochs)))
        keep = sorted({epochs - round(number * last / members) for number in range(members)})
        schedule = {"name": "cosine", "final": _HIGH}
        rate = f"falls to {_HIGH} of itself"
    # To the end, at the planned rates; the weights as they are, not a running mean that lags behind them.
    own = {
        "schedule": schedule,
        "stop": {"epochs": keep[-1], "patience": 0},
        "optimizer": {"average": 0.0},
    }
    _refuse_overruled(how, own, merge(asked))
    recipes = {"stop.patience": recipe.stop.patience, "optimizer.average": recipe.optimizer.average}
    out = [f"{key} = {value:g}" for key, value in recipes.items() if value]
    without = f"; without the recipe's {' and '.join(out)}" if out else ""
    fewer = "" if keep[-1] == epochs else f", {epochs - keep[-1]} fewer than asked for"
    return Plan(
        [{"data": {"split": recipe.split_seed}}, own],
        [{"seed": recipe.seed}],
        keep,
        f"one run of {_epochs(keep[-1])}{fewer}, whose rate {rate}; its weights are kept after the epochs "
        f"{', '.join(map(str, keep))}{without}",
    )


def _epochs(count: int) -> str:
    return "epoch" if count == 1 else f"{count} epochs"


def _refuse_overruled(how: How, own: Layer, asked: Layer) -> None:
    """Refuse settings that the plan would take the place of without a word; of the epochs it tells."""
    mine = dict(flat(own))
    overruled = [
        f"{key}: how = {how!r} has its own; leave it out"
        for key, value in flat(asked)
        if key != "stop.epochs"
        and (("schedule" in own and key.startswith("schedule.")) or (key in mine and mine[key] != value))
    ]
    if overruled:
        raise RecipeError(overruled)


def _joined(layers: Sequence[Layer]) -> dict[str, Any]:
    """One dictionary out of layers, none of which takes away what another says."""
    joined: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and key in joined
            joined[key] = {**joined[key], **value} if both else value
    return joined


def flat(layer: Layer) -> Iterator[tuple[str, Any]]:
    """A layer's settings by their dotted keys."""
    for key, value in layer.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", told) for name, told in flat(value))
        else:
            yield key, value
