"""The settings of a named part: the keyword arguments of its function or class, read and checked.

So a part's code is the only place where its settings are written down: the recipe's checks, its
defaults and its comments all come from the signature and the docstring.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .. import registry
from ..errors import nearest

# Arguments that the loop fills in itself, or that only a program can use.
WIRING = {
    "model": {"shape", "outputs"},
    "optimizer": {"params", "maximize", "foreach", "fused", "capturable", "differentiable"},
    "schedule": {"optimizer", "total_steps", "steps_per_epoch", "last_epoch"},
}


# Schedules are tried on a training longer than any: whether durations fit is known once the data are.
ENDLESS, EPOCH = 10**15, 10**6

# What the recipe of a run on a network from Python says in place of a model's name.
GIVEN = "given"


def is_registered(kind: str, name: str) -> bool:
    """Whether a part comes from the registry; a model may also be `auto`, given, or the user's factory."""
    return kind != "model" or not (name in ("auto", GIVEN) or ":" in name)


def parameters(kind: str, name: str) -> dict[str, inspect.Parameter]:
    """The settings that a part takes, in the order of its signature."""
    part = registry.lookup(kind, name)
    return {
        key: parameter
        for key, parameter in inspect.signature(part).parameters.items()
        if key not in WIRING[kind] and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def defaults(kind: str, name: str) -> dict[str, Any]:
    """Every setting that has a default which TOML can hold, with that default in its type: 0 is 0.0."""
    types = _types(kind, name)
    return {
        key: _converted(types.get(key, Any), parameter.default)
        for key, parameter in parameters(kind, name).items()
        if parameter.default is not None and parameter.default is not parameter.empty
    }


def check(
    kind: str, name: str, given: Mapping[str, Any], reserved: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """A part's settings in the types of its signature, and what is wrong with them and with its name.

    What is wrong is a sentence each, none where all is well. A setting that is called like a kind of
    parts, as `activation`, names one of them. A model that is not registered is checked when it is made.

    Args:
        kind: "model", "optimizer" or "schedule".
        name: of the part.
        given: its settings, as a person wrote them.
        reserved: the section's own keys, for the nearest valid name.
    """
    if not is_registered(kind, name):
        return dict(given), []
    if reason := registry.unknown(kind, name):
        return dict(given), [f"{kind}.name: {reason}"]
    known, types = parameters(kind, name), _types(kind, name)
    read: dict[str, Any] = {}
    found = []
    for key, value in given.items():
        if key not in known:
            hint = nearest(key, [*known, *reserved]) or f"; {name} takes {', '.join(known) or 'no settings'}"
            found.append(f"{kind}.{key}: {name} has no such setting{hint}")
            continue
        try:
            read[key] = _converted(types.get(key, Any), value)
        except ValueError as error:
            found.append(f"{kind}.{key} = {value!r}: {error}")
            continue
        if registry.names(key) and (reason := registry.unknown(key, read[key])):
            found.append(f"{kind}.{key}: {reason}")
    required = {key for key, parameter in known.items() if parameter.default is parameter.empty}
    found += [f"{kind}.{key}: {name} needs a value" for key in sorted(required - given.keys())]
    if required <= read.keys():
        found += _impossible(kind, name, read)
    return read, found


def _types(kind: str, name: str) -> dict[str, Any]:
    part = registry.lookup(kind, name)
    return get_type_hints(part.__init__ if inspect.isclass(part) else part)


def _converted(expected: Any, value: Any) -> Any:
    """`value` as the type that a signature names.

    Raises:
        ValueError: it is no such value; the text says why.
    """
    try:
        return TypeAdapter(expected, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        # Types that only a program can give, such as a tensor, would confuse who writes a recipe.
        told = [item["msg"] for item in error.errors() if item["type"] != "is_instance_of"]
        reasons = dict.fromkeys(reason[0].lower() + reason[1:] for reason in told)
        raise ValueError(" or ".join(reasons) or "only a program can give it") from error


def _impossible(kind: str, name: str, given: Mapping[str, Any]) -> list[str]:
    """Try the settings on a toy: the part itself knows which values are possible."""
    import torch

    from ..errors import RecipeError

    part = registry.lookup(kind, name)
    weight = torch.nn.Parameter(torch.zeros(1))
    try:
        if kind == "optimizer":
            part([weight], **given)
        elif kind == "schedule":
            part(torch.optim.SGD([weight]), total_steps=ENDLESS, steps_per_epoch=EPOCH, **given)
    except RecipeError as error:
        return [problem if problem.startswith(kind) else f"{kind}: {problem}" for problem in error.problems]
    except (ValueError, TypeError) as error:
        return [f"{kind}: {name}: {error}"]
    return []


def descriptions(kind: str, name: str) -> dict[str, str]:
    """What each setting means: from the `Args:` or `Attributes:` of the part's docstring or its bases'."""
    part = registry.lookup(kind, name)
    found: dict[str, str] = {}
    for base in reversed(inspect.getmro(part)) if inspect.isclass(part) else (part,):
        text = inspect.cleandoc(base.__doc__ or "")
        for section in re.findall(r"^(?:Args|Attributes):\n((?: .*\n?|\n)*)", text, flags=re.MULTILINE):
            for key, meaning in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE):
                found[key] = " ".join(meaning.split())
    return found
