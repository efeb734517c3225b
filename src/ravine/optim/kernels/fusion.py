"""A rule turned into few torch calls that work in place.

Run as it is written, Adam is thirteen torch operators, each a pass over memory and a new tensor. Here the
rule is run once on symbols: scalars gather as text, and a product or quotient of tensors waits until it
is added to something, because torch can scale, multiply or divide and add in one pass (`add` with alpha,
`addcmul`, `addcdiv`). What comes out is the source of a small function, nine calls for Adam, that
overwrites x and the state.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..rule import Rule

Program = Callable[..., None]
"""`(x, dx, *state, t, *hyperparameters, *AROUND)`: x and the state are overwritten."""


AROUND = ("around_decay", "around_shrink", "around_damping")


class Shape(NamedTuple):
    """Which of the surroundings there are (see `eager.Surroundings`); their values come at run time."""

    maximize: bool
    decay: bool
    shrink: bool
    damping: bool


@dataclass(frozen=True)
class Scalar:
    """A number known at run time, as the text of an expression."""

    text: str

    def __add__(self, other: Any) -> Any:
        return _join(self, "+", other)

    def __radd__(self, other: Any) -> Any:
        return _join(other, "+", self)

    def __sub__(self, other: Any) -> Any:
        return _join(self, "-", other)

    def __rsub__(self, other: Any) -> Any:
        return _join(other, "-", self)

    def __mul__(self, other: Any) -> Any:
        return _join(self, "*", other)

    def __rmul__(self, other: Any) -> Any:
        return _join(other, "*", self)

    def __truediv__(self, other: Any) -> Any:
        return _join(self, "/", other)

    def __rtruediv__(self, other: Any) -> Any:
        return _join(other, "/", self)

    def __pow__(self, other: Any) -> Any:
        return _join(self, "**", other)

    def __rpow__(self, other: Any) -> Any:
        return _join(other, "**", self)

    def __neg__(self) -> "Scalar":
        return Scalar(f"(-{self.text})")


def _join(left: Any, sign: str, right: Any) -> Any:
    if isinstance(left, Term) or isinstance(right, Term):
        return NotImplemented
    if sign in "*/" and _is_one(right):
        return left
    if sign == "*" and _is_one(left):
        return right
    return Scalar(f"({_text(left)} {sign} {_text(right)})")


def _text(scalar: Any) -> str:
    return scalar.text if isinstance(scalar, Scalar) else repr(scalar)


def _is_one(scalar: Any) -> bool:
    return not isinstance(scalar, Scalar) and bool(scalar == 1)


@dataclass(frozen=True)
class Call:
    """One torch call: `result = base.name(*tensors, *scalars)`; only `base` may be overwritten."""

    result: str
    name: str
    base: str
    tensors: tuple[str, ...]
    scalars: str


class Trace:
    """The calls made so far."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def call(self, name: str, base: str, tensors: Sequence[str] = (), scalars: str = "") -> "Term":
        """Note one call; its result is a new tensor."""
        result = f"_{len(self.calls)}"
        self.calls.append(Call(result, name, base, tuple(tensors), scalars))
        return Term(self, 1.0, (result,))


class Term:
    """scale · factor [· factor] [/ under], not yet computed; the factors are names of tensors."""

    def __init__(self, trace: Trace, scale: Any, factors: tuple[str, ...], under: str | None = None) -> None:
        self.trace = trace
        self.scale = scale
        self.factors = factors
        self.under = under
        self._name = factors[0] if self.is_scaled and _is_one(scale) else None

    @property
    def is_scaled(self) -> bool:
        """Whether this is a tensor times a number and no more."""
        return len(self.factors) == 1 and self.under is None

    def name(self) -> str:
        """The tensor's name, computing it first if need be."""
        if self._name is None:
            self._name = self._compute()
        return self._name

    def _compute(self) -> str:
        base, rest = self.factors[0], self.factors[1:]
        if rest:
            base = self.trace.call("mul", base, rest).factors[0]
        if self.under is not None:
            base = self.trace.call("div", base, (self.under,)).factors[0]
        if not _is_one(self.scale):
            base = self.trace.call("mul", base, (), _text(self.scale)).factors[0]
        return base

    def _settled(self) -> "Term":
        return Term(self.trace, 1.0, (self.name(),))

    def _scaled(self, scale: Any) -> "Term":
        return Term(self.trace, scale, self.factors, self.under)

    def __neg__(self) -> "Term":
        return self._scaled(-self.scale)

    def __mul__(self, other: Any) -> "Term":
        if not isinstance(other, Term):
            return self._scaled(self.scale * other)
        left = self if self.is_scaled else self._settled()
        right = other if other.is_scaled else other._settled()
        return Term(self.trace, left.scale * right.scale, left.factors + right.factors)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Term":
        if not isinstance(other, Term):
            return self._scaled(self.scale / other)
        over = self if self.is_scaled else self._settled()
        return Term(self.trace, over.scale, over.factors, other.name())

    def __add__(self, other: Any) -> "Term":
        if not isinstance(other, Term):
            return self.trace.call("add", self.name(), (), _text(other))
        base, more = (self, other) if self.is_scaled or not other.is_scaled else (other, self)
        option = "alpha" if more.is_scaled else "value"
        scalars = "" if _is_one(more.scale) else f"{option}={_text(more.scale)}"
        if more.is_scaled:
            return self.trace.call("add", base.name(), more.factors, scalars)
        if more.under is None:
            return self.trace.call("addcmul", base.name(), more.factors, scalars)
        return self.trace.call("addcdiv", base.name(), (*more.factors, more.under), scalars)

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Term":
        return self.__add__(-other)

    def __rsub__(self, other: Any) -> "Term":
        return (-self).__add__(other)


def _sqrt(value: Any) -> Any:
    # torch's `sqrt` wakes its threads for any 2,048 elements, which takes longer than the work and waits for
    # other processes; 1/(1/√v) costs the same, does not, and is right at 0, infinity and not-a-number.
    if isinstance(value, Term):
        return value.trace.call("reciprocal", value.trace.call("rsqrt", value.name()).name())
    return Scalar(f"sqrt({_text(value)})")


def _maximum(a: Term, b: Term) -> Term:
    return a.trace.call("maximum", a.name(), (b.name(),))


@functools.cache
def program(rule: Rule, shape: Shape) -> Program | None:
    """The rule inside its surroundings, as few calls as torch allows; None where it cannot be traced.

    A rule that does more than arithmetic, `sqrt` and `maximum` is run as it is written instead.
    """
    slots = ("x", *(f"s{index}" for index in range(len(rule.state))))
    try:
        calls, results = _trace(rule, shape, slots)
    except (TypeError, AttributeError):
        return None
    arguments = ("x", "dx", *slots[1:], "t", *rule.hyperparameters, *AROUND)
    lines = _statements(calls, dict(zip(slots, results, strict=True)))
    source = f"def {rule.name}({', '.join(arguments)}):\n" + "".join(f"    {line}\n" for line in lines)
    names: dict[str, Any] = {"torch": torch, "sqrt": math.sqrt}
    exec(compile(source, f"<{rule.name} as torch calls>", "exec"), names)
    made: Program = names[rule.name]
    made.__doc__ = source
    return made


def _trace(rule: Rule, shape: Shape, slots: Sequence[str]) -> tuple[list[Call], list[str]]:
    trace = Trace()
    x, dx, *state = (Term(trace, 1.0, (name,)) for name in ("x", "dx", *slots[1:]))
    if shape.maximize:
        dx = -dx
    if shape.decay:
        dx = dx + Scalar(AROUND[0]) * x
    if shape.shrink:
        x = x * (1 - Scalar(AROUND[1]))
    if shape.damping:
        dx = dx * (1 - Scalar(AROUND[2]))
    function = rule.bind(sqrt=_sqrt, maximum=_maximum)
    new = function(x, dx, *state, Scalar("t"), *(Scalar(name) for name in rule.hyperparameters))
    return trace.calls, [term.name() for term in new]


def _statements(calls: Sequence[Call], outputs: dict[str, str]) -> list[str]:
    """Python statements for the calls, in place wherever nobody needs the old value any more."""
    last_use = dict.fromkeys(outputs, -1)
    for index, call in enumerate(calls):
        for name in (call.base, *call.tensors):
            last_use[name] = index
    made = {call.result for call in calls}
    kept = set(outputs.values())
    replaced = _replaced_inputs(calls, outputs, last_use)
    lines = []
    for index, call in enumerate(calls):
        spent = call.base in made and call.base not in kept and last_use[call.base] == index
        in_place = spent or replaced.get(index) == call.base
        arguments = ", ".join((*call.tensors, *([call.scalars] if call.scalars else [])))
        if call.name == "maximum":
            target = f", out={call.base}" if in_place else ""
            lines.append(f"{call.result} = torch.maximum({call.base}, {arguments}{target})")
        else:
            lines.append(f"{call.result} = {call.base}.{call.name}{'_' if in_place else ''}({arguments})")
    in_place_slots = set(replaced.values())
    lines += [
        f"{slot}.copy_({name})" for slot, name in outputs.items() if slot not in in_place_slots | {name}
    ]
    return lines or ["pass"]


def _replaced_inputs(
    calls: Sequence[Call], outputs: dict[str, str], last_use: dict[str, int]
) -> dict[int, str]:
    """The calls that may overwrite an input: by index, the input.

    An input may be overwritten by the first of a chain of calls, each of which overwrites the one
    before and the last of which gives that input's new value.
    """
    makers = {call.result: index for index, call in enumerate(calls)}
    replaced = {}
    for slot, name in outputs.items():
        others = [other for key, other in outputs.items() if key != slot]
        while name in makers and name not in others:
            index = makers[name]
            base = calls[index].base
            if last_use[base] != index or base in others:
                break
            if base == slot:
                replaced[index] = slot
                break
            name = base
    return replaced
