"""Whose code runs: a file may name a network by `module:function` only where a person trusts the file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import ModelError
from .recipe import Layer, Recipe


def refuse_code(file: Layer, where: str | Path, chosen: Iterable[Layer] = ()) -> None:
    """Refuse the settings of a file that would import code: a recipe is read, and must not act.

    Args:
        file: the settings that the file holds.
        where: the file, for the message.
        chosen: the settings that the person gave; a network named there is the one that is made.

    Raises:
        ModelError: the file names its network by `module:function` and nothing in `chosen` names one.
    """
    name = _named(file)
    if ":" in name and not any(_named(layer) for layer in chosen):
        module, _, function = name.partition(":")
        raise ModelError(
            f"{where} says model.name = {name!r}: that would import {module!r} and call its {function!r}, "
            "and code can do anything. If you trust it, add --trust (in Python trust=True)"
        )


def needed(recipe: Recipe) -> str:
    """What a command on a run of this recipe takes besides: " --trust", or nothing."""
    return " --trust" if ":" in recipe.model.name else ""


def _named(layer: Layer) -> str:
    """The network that a layer of settings names; an empty text where it names none."""
    section = layer.get("model")
    name = section.get("name") if isinstance(section, Mapping) else None
    return name if isinstance(name, str) else ""
