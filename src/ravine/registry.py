"""One record per named part: it feeds the factory, the listing and the recipe's checks alike.

A room registers its parts beside their code, so a part's name, its description and its
implementation cannot drift apart:

    @register("model", "linear", "softmax regression: one linear layer")
    def linear(shape, settings): ...
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .errors import RecipeError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A named part: what kind it is, what it is called, what it does, where it is from.

    `suggested` holds the settings a recipe takes when it names the part and says no more: a class
    keeps the defaults its users know, and these are the values that train well.
    """

    kind: str
    name: str
    description: str
    part: Any
    source: str = ""
    suggested: Mapping[str, object] = field(default_factory=dict)


_entries: dict[str, dict[str, Entry]] = {}


def register(
    kind: str,
    name: str,
    description: str,
    *,
    source: str = "",
    suggested: Mapping[str, object] | None = None,
) -> Callable[[T], T]:
    """Decorator: enter a class or function under (`kind`, `name`).

    `description` is one line; `source` the paper or equation, where there is one; `suggested` as in `Entry`.

    Raises:
        ValueError: the name is taken already.
    """

    def enter(part: T) -> T:
        if name in _entries.setdefault(kind, {}):
            raise ValueError(f"the {kind} {name!r} is registered twice")
        _entries[kind][name] = Entry(kind, name, description, part, source, dict(suggested or {}))
        return part

    return enter


def names(kind: str) -> tuple[str, ...]:
    """Every name registered for a kind, in the order of registration."""
    return tuple(_entries.get(kind, {}))


def entries(kind: str) -> tuple[Entry, ...]:
    """Every record of a kind, in the order of registration."""
    return tuple(_entries.get(kind, {}).values())


def lookup(kind: str, name: str) -> Any:
    """The part registered under (`kind`, `name`).

    Raises:
        RecipeError: there is none; the message has the nearest valid name.
    """
    if reason := unknown(kind, name):
        raise RecipeError([reason])
    return _entries[kind][name].part


def unknown(kind: str, name: str) -> str:
    """Why there is no part (`kind`, `name`), with the nearest valid name; empty where there is one."""
    known = names(kind)
    if name in known:
        return ""
    return f"unknown {kind} {name!r}{nearest(name, known) or '; valid are ' + ', '.join(known)}"
