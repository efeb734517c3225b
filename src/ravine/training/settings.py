"""The settings of a named part: the keyword arguments of its function or class, read and checked.

So a part's code is the only place where its settings are written down: the recipe's checks, its
defaults and its comments all come from the signature and the docstring.
"""

import functools
import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Unpack, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .. import registry
from ..addresses import is_address
from ..docstrings import meanings
from ..errors import RavineError, RecipeError, nearest
from ..optim.options import DEFAULTS, Options
from .own_optimizers import own_optimizer

# Arguments that the loop fills in itself, that only a program can use, or that are the section's own keys.
WIRING = {
    "model": {"shape", "outputs"},
    "optimizer": {"params", "maximize", "foreach", "fused", "capturable", "differentiable"}
    | {"clip_norm", "accumulate", "average", "line_search_fn"},
    "schedule": {"optimizer", "total_steps", "steps_per_epoch", "last_epoch"},
}


# Schedules are tried on a training longer than any: whether durations fit is known once the data are.
ENDLESS, EPOCH = 10**15, 10**6

# What the recipe of a run on a network from Python says in place of a model's name.
GIVEN = "given"
# And that of a run whose network the library of a model hub makes: `pretrained.json` says how.
PRETRAINED = "pretrained"


def is_readable(kind: str, name: str) -> bool:
    """Whether a part's settings are read from its code; no model's that is `auto`, given, or a user's own."""
    return kind != "model" or not (name in ("auto", GIVEN, PRETRAINED) or is_address(name))


def part(kind: str, name: str) -> Any:
    """The function or class that a name stands for; an optimizer's may be `package.module:name`.

    Such code is imported, which runs it: only where `trust` allows it.

    Raises:
        RavineError: there is none; the text begins with the name.
    """
    if kind == "optimizer" and is_address(name):
        return own_optimizer(name)
    return registry.lookup(kind, name)


def parameters(kind: str, name: str) -> dict[str, inspect.Parameter]:
    """The settings that a part takes, in the order of its signature; then the options of every optimizer."""
    found = part(kind, name)
    known = dict(_signature(found).parameters)
    if _further(found) == Unpack[Options]:
        by_name = inspect.Parameter.KEYWORD_ONLY
        known |= {key: inspect.Parameter(key, by_name, default=value) for key, value in DEFAULTS.items()}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        key: parameter
        for key, parameter in known.items()
        if key not in WIRING[kind] and parameter.kind not in variadic
    }


@functools.cache
def _signature(found: Any) -> inspect.Signature:
    return inspect.signature(found)


def defaults(kind: str, name: str) -> dict[str, Any]:
    """Every setting that has a default which TOML can hold, with that default in its type: 0 is 0.0."""
    types = _types(part(kind, name))
    found = {}
    for key, parameter in parameters(kind, name).items():
        if isinstance(parameter.default, bool | int | float | str | list | tuple | dict):
            with suppress(ValueError):  # a user's own annotation may not fit the default
                found[key] = _converted(types.get(key, Any), parameter.default)
    return found


def check(
    kind: str, name: str, given: Mapping[str, Any], reserved: Sequence[str] = (), *, code: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """A part's settings in the types of its signature, and what is wrong with them and with its name.

    What is wrong is a sentence each, none where all is well. A setting that is called like a kind of
    parts, as `activation`, names one of them. A model that is not registered is checked when it is made.

    Args:
        kind: "model", "optimizer" or "schedule".
        name: of the part.
        given: its settings, as a person wrote them.
        reserved: the section's own keys, for the nearest valid name.
        code: import what an address names, to check it too.
    """
    if not is_readable(kind, name) or (kind == "optimizer" and is_address(name) and not code):
        return dict(given), []
    try:
        own = part(kind, name)
    except RecipeError as error:
        return dict(given), [f"{kind}.name: {problem}" for problem in error.problems]
    except RavineError as error:
        return dict(given), [f"{kind}.name: {error}"]
    known, types = parameters(kind, name), _types(own)
    anything = _further(own) is Any
    read: dict[str, Any] = {}
    found = []
    for key, value in given.items():
        if key not in known and not anything:
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
        found += _impossible(kind, name, own, read)
    return read, found


@functools.cache
def _types(found: Any) -> dict[str, Any]:
    further = get_type_hints(Options) if _further(found) == Unpack[Options] else {}
    return further | _hints(found)


def _hints(found: Any) -> dict[str, Any]:
    try:
        return get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except NameError:  # a user's own code may import its types for type checkers only
        return {}


@functools.cache
def _further(found: Any) -> Any:
    """What `**kwargs` of a part may be: the annotation, Any where there is none, None without `**kwargs`."""
    for key, parameter in _signature(found).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            return _hints(found).get(key, Any)
    return None


def _converted(expected: Any, value: Any) -> Any:
    """`value` as the type that a signature names.

    Raises:
        ValueError: it is no such value; the text says why.
    """
    try:
        return _adapter(expected).validate_python(value)
    except ValidationError as error:
        # Types that only a program can give, such as a tensor, would confuse who writes a recipe.
        told = [item["msg"] for item in error.errors() if item["type"] != "is_instance_of"]
        reasons = dict.fromkeys(reason[0].lower() + reason[1:] for reason in told)
        raise ValueError(" or ".join(reasons) or "only a program can give it") from error


@functools.cache
def _adapter(expected: Any) -> TypeAdapter[Any]:
    return TypeAdapter(expected, config=ConfigDict(arbitrary_types_allowed=True))


def _impossible(kind: str, name: str, found: Any, given: Mapping[str, Any]) -> list[str]:
    """Try the settings on a toy: the part itself knows which values are possible."""
    import torch

    weight = torch.nn.Parameter(torch.zeros(1))
    try:
        if kind == "optimizer":
            found([weight], **given)
        elif kind == "schedule":
            found(torch.optim.SGD([weight]), total_steps=ENDLESS, steps_per_epoch=EPOCH, **given)
    except RecipeError as error:
        return [problem if problem.startswith(kind) else f"{kind}: {problem}" for problem in error.problems]
    except (ValueError, TypeError, RuntimeError) as error:
        return [f"{kind}: {name}: {error}"]
    except Exception as error:
        if not is_address(name):
            raise
        return [f"{kind}: {name}: {type(error).__name__}: {error}"]
    return []


def descriptions(kind: str, name: str) -> dict[str, str]:
    """What each setting means: from the `Args:` or `Attributes:` of the part's docstring or its bases'."""
    found = part(kind, name)
    told: dict[str, str] = {}
    for base in (Options, *reversed(inspect.getmro(found))) if inspect.isclass(found) else (found,):
        told |= meanings(base.__doc__)
    return told
