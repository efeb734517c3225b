"""Networks by name, each a plain `nn.Module`.

A registered network is a function `name(shape, outputs, **settings)`: `shape` is that of one
preprocessed item, `()` for text; `outputs` is the number of classes, 1 for regression, or the size of
the vocabulary. Its keyword arguments are the keys of a recipe's `[model]` section.
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError
from torch import nn

from ..errors import ModelError
from ..registry import lookup
from . import cnn, linear, mlp, mobilenet, resnet, transformer  # noqa: F401  each registers its network
from .factory import build, check_arguments

__all__ = ["make"]


def make(name: str, shape: tuple[int, ...], outputs: int, settings: Mapping[str, object]) -> nn.Module:
    """A new network: a registered one by its name, or a user's own by `package.module:function`.

    Its weights are drawn from the global random stream: make it under `randomness.addressed`.

    Args:
        name: a registered name, or an address with a colon.
        shape: shape of one preprocessed item; () for text.
        outputs: number of classes, 1 for a value, or the size of the vocabulary.
        settings: keyword arguments of the network.

    Raises:
        ModelError: the network cannot be made, does not fit the shape, or settings are of another type than
            its own: each is told.
        RecipeError: a name is unknown.
    """
    if ":" in name:
        return build(name, shape, outputs, settings)
    network = lookup("model", name)
    parameters = dict(inspect.signature(network).parameters)
    del parameters["shape"], parameters["outputs"]
    check_arguments(name, parameters, settings)
    made: nn.Module = network(shape, outputs, **_typed(name, network, settings))
    return made


def _typed(name: str, network: Callable[..., nn.Module], settings: Mapping[str, object]) -> dict[str, Any]:
    """The settings in the types of the network's signature."""
    typed: dict[str, Any] = {}
    wrong = []
    for key, value in settings.items():
        adapter = _adapters(network).get(key)
        try:
            typed[key] = value if adapter is None else adapter.validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            wrong.append(f"{key} = {value!r}: {reason[0].lower()}{reason[1:]}")
    if wrong:
        raise ModelError(f"model {name!r}: {'; '.join(wrong)}")
    return typed


@cache
def _adapters(network: Callable[..., nn.Module]) -> dict[str, TypeAdapter[Any]]:
    """By the names of the arguments; of a type that pydantic does not know, such as one of a person, none."""
    found = {}
    for key, hint in get_type_hints(network).items():
        with suppress(PydanticSchemaGenerationError):
            found[key] = TypeAdapter(hint)
    return found
