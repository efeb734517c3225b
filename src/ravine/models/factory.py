"""Networks from a user's own code: `package.module:function`."""

import inspect
from collections.abc import Callable, Mapping

from torch import nn

from ..addresses import find
from ..errors import ModelError, RavineError, nearest

_SHAPE_NAMES = ("shape", "input_shape")
_OUTPUTS_NAMES = ("outputs", "num_classes", "classes")


def build(address: str, shape: tuple[int, ...], outputs: int, settings: Mapping[str, object]) -> nn.Module:
    """Import `package.module:name` and call it; a `nn.Module` subclass works like a function.

    It is called with those of `shape` or `input_shape` (the shape of one item) and `outputs`,
    `num_classes` or `classes` (how many numbers to give) that its signature names, and with `settings`.

    Raises:
        ModelError: it cannot be imported, does not take these arguments, fails, or gives no `nn.Module`.
    """
    factory = _find(address)
    given = dict.fromkeys(_SHAPE_NAMES, shape) | dict.fromkeys(_OUTPUTS_NAMES, outputs)
    parameters = _parameters(address, factory)
    arguments = {name: value for name, value in given.items() if name in parameters} | dict(settings)
    check_arguments(address, parameters, arguments)
    try:
        made = factory(**arguments)
    except Exception as error:
        raise ModelError(
            f"model {address} failed while being made: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"model {address} gave a {type(made).__name__}, but a torch.nn.Module is needed")
    return made


def check_arguments(
    name: str, parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, object]
) -> None:
    """`arguments` are all named by the signature, and none that it requires is missing.

    Raises:
        ModelError: naming each one that is unknown or missing.
    """
    kinds = {parameter.kind for parameter in parameters.values()}
    unknown = (
        [] if inspect.Parameter.VAR_KEYWORD in kinds else [key for key in arguments if key not in parameters]
    )
    if unknown:
        hints = ", ".join(f"{key!r}{nearest(key, parameters)}" for key in unknown)
        raise ModelError(f"model {name} has no setting {hints}; it takes {', '.join(parameters) or 'none'}")
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind not in variadic and key not in arguments
    ]
    if missing:
        raise ModelError(
            f"model {name} needs {', '.join(missing)}: give it as a setting of the model, or as a default; "
            "Ravine itself gives shape or input_shape, and outputs, num_classes or classes"
        )


def _find(address: str) -> Callable[..., object]:
    try:
        found = find(address)
    except RavineError as error:
        raise ModelError(f"model {error}") from error
    if not callable(found):
        raise ModelError(f"model {address}: it is no function and no class, but a {type(found).__name__}")
    return found


def _parameters(address: str, factory: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"model {address}: its arguments cannot be read ({error}); wrap it in a function"
        ) from error
