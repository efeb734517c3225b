"""Whose code runs: a file may name a part by `module:name` only where a person trusts the file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..addresses import is_address
from ..errors import TrustError
from .recipe import Layer, Recipe

KINDS = ("model", "optimizer")
"""The parts that may be a user's own code."""


def refuse_code(file: Layer, where: str | Path, chosen: Iterable[Layer] = ()) -> None:
    """Refuse the settings of a file that would import code: a recipe is read, and must not act.

    Args:
        file: the settings that the file holds.
        where: the file, for the message.
        chosen: the settings that the person gave; a part named there is the one that is made.

    Raises:
        TrustError: the file names a part by `module:name` and nothing in `chosen` names one of its kind.
    """
    chosen = list(chosen)
    for kind in KINDS:
        name = _named(file, kind)
        if is_address(name) and not any(_named(layer, kind) for layer in chosen):
            module, _, attribute = name.partition(":")
            raise TrustError(
                f"{where} says {kind}.name = {name!r}: that would import {module!r} and call its "
                f"{attribute!r}, and code can do anything. If you trust it, add --trust "
                "(in Python trust=True)"
            )


def needed(recipe: Recipe) -> str:
    """What a command that goes on with a run of this recipe takes besides: " --trust", or nothing."""
    return " --trust" if any(is_address(getattr(recipe, kind).name) for kind in KINDS) else ""


def _named(layer: Layer, kind: str) -> str:
    """The part that a layer of settings names; an empty text where it names none."""
    section = layer.get(kind)
    name = section.get("name") if isinstance(section, Mapping) else None
    return name if isinstance(name, str) else ""
