"""`@rule`: an update rule is written once, as a plain function of one element.

    @rule(state={"v": "momentum_buffer"})
    def momentum(x, dx, v, t, lr, rho):
        v = rho * v + dx
        return x - lr * v, v

The function takes a parameter `x`, its gradient `dx`, the state, the step `t` (counted from 1) and
the hyperparameters, and returns the new parameter and the new state. Its body is arithmetic and the
functions below, without branches, so the same body runs on Python floats, on tensors, and through
any compiler an engine may use: an engine asks for a copy bound to its own functions (`Rule.bind`).
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

UpdateFunction = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Rule:
    """An update rule: its function and what the function's signature says.

    Attributes:
        name: the function's name.
        function: `(x, dx, *state, t, *hyperparameters) -> (x, *state)`; a rule without state gives `(x,)`.
        state: the state's keys in a checkpoint, in the order of the function's parameters.
        hyperparameters: the parameters after `t`; the first of them is `lr`.
    """

    name: str
    function: UpdateFunction
    state: tuple[str, ...]
    hyperparameters: tuple[str, ...]

    def __call__(self, *values: Any) -> Any:
        """One step of the rule, on Python floats or on tensors."""
        return self.function(*values)

    def bind(self, **functions: Any) -> UpdateFunction:
        """A copy of the function in which names such as `sqrt` mean what an engine gives.

        Rules that the function calls are bound likewise.
        """
        original = self.function
        if not isinstance(original, FunctionType):
            raise TypeError(f"the rule {self.name!r} is no plain Python function")
        names = {**original.__globals__, **functions}
        for name in original.__code__.co_names:
            if isinstance(names.get(name), Rule):
                names[name] = names[name].bind(**functions)
        return FunctionType(original.__code__, names, original.__name__)


def rule(*, state: Sequence[str] | Mapping[str, str] = ()) -> Callable[[UpdateFunction], Rule]:
    """Decorator: make a `Rule` of a function `(x, dx, *state, t, lr, *hyperparameters)`.

    `state` names the state's parameters; a mapping gives each its key in a checkpoint.

    Raises:
        TypeError: the signature is not of that form.
    """
    keys = dict(state) if isinstance(state, Mapping) else {name: name for name in state}

    def decorate(function: UpdateFunction) -> Rule:
        parameters = tuple(inspect.signature(function).parameters)
        head = ("x", "dx", *keys, "t")
        if parameters[: len(head)] != head or parameters[len(head) : len(head) + 1] != ("lr",):
            expected = ", ".join((*head, "lr", "..."))
            raise TypeError(
                f"the rule {function.__name__!r} must take ({expected}), not ({', '.join(parameters)})"
            )
        return Rule(function.__name__, function, tuple(keys.values()), parameters[len(head) :])

    return decorate


def sqrt(x: Any) -> Any:
    """√x; not-a-number where x is negative."""
    if isinstance(x, int | float):
        return math.sqrt(x) if x >= 0 else math.nan
    return x.sqrt()


def absolute(x: Any) -> Any:
    """|x|."""
    return x.abs() if not isinstance(x, int | float) else abs(x)


def sign(x: Any) -> Any:
    """−1, 0 or 1; not-a-number stays that."""
    if isinstance(x, int | float):
        return x if math.isnan(x) else float((x > 0) - (x < 0))
    return where(x != x, x, x.sign()) if isinstance(x, Tensor) else x.sign()


def maximum(a: Any, b: Any) -> Any:
    """The larger of two, element by element; not-a-number wins."""
    if isinstance(a, int | float):
        a, b = b, a
    if isinstance(a, int | float):
        return a if a >= b or math.isnan(a) else b
    return a.clamp(min=b) if isinstance(b, int | float) else a.maximum(b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two, element by element; not-a-number wins."""
    return -maximum(-a, -b)


def where(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds and `b` elsewhere: what a rule has in place of branches.

    Conditions are comparisons with <, <=, >, >=, == and !=; both values are computed.
    """
    if isinstance(condition, bool):
        return a if condition else b
    return torch.where(condition, a, b) if isinstance(condition, Tensor) else condition.choose(a, b)
