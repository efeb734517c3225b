"""Networks by name, each a plain `nn.Module`.

A registered network is a function `name(shape, outputs, **settings)`: `shape` is that of one
preprocessed item, `()` for text; `outputs` is the number of classes, 1 for regression, or the size of
the vocabulary. Its keyword arguments are the keys of a recipe's `[model]` section.
"""

import inspect
from collections.abc import Mapping

from torch import nn

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
        ModelError: the network cannot be made, or does not fit the shape.
        RecipeError: a name is unknown.
    """
    if ":" in name:
        return build(name, shape, outputs, settings)
    network = lookup("model", name)
    parameters = dict(inspect.signature(network).parameters)
    del parameters["shape"], parameters["outputs"]
    check_arguments(name, parameters, settings)
    made: nn.Module = network(shape, outputs, **settings)
    return made
