"""`@rule`: an update rule is written once, as a plain function of one element.

    @rule(state={"v": "momentum_buffer"})
    def momentum(x, dx, v, t, lr=0.01, rho=0.9):
        v = rho * v + dx
        return x - lr * v, v

    optimizer = momentum.optimizer(model.parameters(), lr=0.1, average=0.999)

The function takes a parameter `x`, its gradient `dx`, the state, the step `t` (counted from 1) and
the hyperparameters, and returns the new parameter and the new state. Its body is arithmetic and the
functions below, without branches, so the function itself runs everywhere: on floats, on tensors (the eager
engine), and once on symbols, from which the compiled engines make their kernels.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .custom import CustomOptimizer

UpdateFunction = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Rule:
    """An update rule: its function and what the function's signature says.

    A rule is pickled by the name under which its module holds it, as a function is.

    Attributes:
        name: the function's name.
        function: `(x, dx, *state, t, *hyperparameters) -> (x, *state)`; a rule without state gives `(x,)`.
        state: the state's keys in a checkpoint, in the order of the function's parameters.
        hyperparameters: the parameters after `t`; the first of them is `lr`.
        defaults: of the hyperparameters that have one.
    """

    name: str
    function: UpdateFunction
    state: tuple[str, ...]
    hyperparameters: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("__module__", "__qualname__", "__doc__"):
            self.__dict__[name] = getattr(self.function, name)

    def __call__(self, *values: Any) -> Any:
        """One step of the rule, on Python floats or on tensors.

        Raises:
            TypeError: the function returns something else than x and the state.
        """
        result = self.function(*values)
        if not isinstance(result, tuple) or len(result) != 1 + len(self.state):
            wanted = ", ".join(("x", *self.state)) + ("," if not self.state else "")
            found = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
            raise TypeError(f"the rule {self.name!r} must return ({wanted}), not {found}")
        return result

    @cached_property
    def optimizer(self) -> "type[CustomOptimizer]":
        """The rule as an optimizer class: `(params, lr, *hyperparameters, weight_decay, ..., **options)`.

        Its name is the function's in CamelCase. It has every engine, parameter groups, checkpoints, and the
        options of every optimizer (`ravine.optim.Options`).

        Raises:
            TypeError: a hyperparameter or a key of the state is called as something every optimizer has, or
                a default is no number.
        """
        from .custom import made_from  # it is made of rules itself

        return made_from(self)

    def __reduce__(self) -> str:
        return str(self.__dict__["__qualname__"])

    def __copy__(self) -> "Rule":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Rule":
        return self


def rule(*, state: Sequence[str] | Mapping[str, str] = ()) -> Callable[[UpdateFunction], Rule]:
    """Decorator: make a `Rule` of a function `(x, dx, *state, t, lr, *hyperparameters)`.

    `state` names the state's parameters; a mapping gives each its key in a checkpoint.

    Raises:
        TypeError: the signature is not of that form.
    """
    keys = dict(state) if isinstance(state, Mapping) else {name: name for name in state}

    def decorate(function: UpdateFunction) -> Rule:
        parameters = inspect.signature(function).parameters
        names = tuple(parameters)
        head = ("x", "dx", *keys, "t")
        positional = all(each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters.values())
        if names[: len(head) + 1] != (*head, "lr") or not positional:
            expected = ", ".join((*head, "lr", "..."))
            raise TypeError(
                f"the rule {function.__name__!r} must take ({expected}), not "
                f"{inspect.signature(function)}; each of them by position or name"
            )
        own = names[len(head) :]
        defaults = {
            name: parameters[name].default
            for name in own
            if parameters[name].default is not inspect.Parameter.empty
        }
        return Rule(function.__name__, function, tuple(keys.values()), own, defaults)

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
    if not isinstance(condition, Tensor):
        return condition.choose(a, b)
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = condition.new_full((), a, dtype=torch.float64)  # torch would round both numbers to float32
    return torch.where(condition, a, b)
