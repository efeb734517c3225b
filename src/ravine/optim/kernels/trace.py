"""A rule run once on symbols, and the small program that comes out: what every compiled engine prints.

A `Scalar` is a number of a step, such as 1 − β₁ᵗ: it is kept as the text of an expression, worked out in
float64 once a step. An `Element` is a value that differs from element to element: an instruction of the
program. Where the two meet, the scalar becomes a slot of the program, filled in at run time; so no number
is ever compiled in.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..rule import Rule, absolute, maximum, sign, sqrt, where
from . import surroundings
from .surroundings import Structure, surround


class Instruction(NamedTuple):
    """One operation on elements.

    Attributes:
        name: "input" and "slot" (with their number), "add", "sub", "mul", "div", "neg", "sqrt", "abs",
            "maximum"; "lt", "le", "gt", "ge", "eq", "ne" give conditions; "choose" takes a condition and
            two values.
        arguments: the numbers of earlier instructions, or the number of the input or slot.
    """

    name: str
    arguments: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """A rule inside its surroundings, as instructions.

    Attributes:
        name: the rule's.
        inputs: how many values an element has: x, dx, the state, perhaps the average.
        instructions: in an order in which each comes after its arguments.
        outputs: the instructions that give the new x, state and average.
        slots: how many scalars it takes.
        scalars: `(t, *hyperparameters, *surroundings) -> slots`; floats, or float64 tensors of equal length.
    """

    name: str
    inputs: int
    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]
    slots: int
    scalars: Callable[..., tuple[Any, ...]]


SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**"}
COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
SIGNS |= COMPARISONS


class Symbol:
    """What a rule may do with its arguments."""

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Any) -> Any:
        return _join("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return _join("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return _join("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _join("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return _join("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _join("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return _join("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _join("div", other, self)

    def __pow__(self, other: Any) -> Any:
        return _join("pow", self, other)

    def __rpow__(self, other: Any) -> Any:
        return _join("pow", other, self)

    def __lt__(self, other: Any) -> Any:
        return _join("lt", self, other)

    def __le__(self, other: Any) -> Any:
        return _join("le", self, other)

    def __gt__(self, other: Any) -> Any:
        return _join("gt", self, other)

    def __ge__(self, other: Any) -> Any:
        return _join("ge", self, other)

    def __eq__(self, other: Any) -> Any:
        return _join("eq", self, other)

    def __ne__(self, other: Any) -> Any:
        return _join("ne", self, other)

    def __bool__(self) -> bool:
        raise TypeError("a rule has no branches: write where(condition, a, b)")


class Scalar(Symbol):
    """A number known at run time, as the text of an expression."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __neg__(self) -> "Scalar":
        return Scalar(f"(-{self.text})")

    def sqrt(self) -> "Scalar":
        """√ of this."""
        return Scalar(f"_sqrt({self.text})")

    def abs(self) -> "Scalar":
        """|this|."""
        return Scalar(f"_absolute({self.text})")

    def sign(self) -> "Scalar":
        """−1, 0 or 1."""
        return Scalar(f"_sign({self.text})")

    def maximum(self, other: Any) -> Any:
        """The larger of two."""
        return other.maximum(self) if isinstance(other, Element) else self.clamp(other)

    def clamp(self, min: Any) -> "Scalar":
        """The larger of this and a number."""
        return Scalar(f"_maximum({self.text}, {_text(min)})")

    def choose(self, a: Any, b: Any) -> Any:
        """`a` where this holds, `b` elsewhere."""
        for value in (a, b):
            if isinstance(value, Element):
                holds = value.trace.element(Scalar(f"_where({self.text}, 1.0, 0.0)"))
                return (holds > 0.0).choose(a, b)
        return Scalar(f"_where({self.text}, {_text(a)}, {_text(b)})")


class Element(Symbol):
    """A value that differs from element to element, as the number of an instruction."""

    def __init__(self, trace: "Trace", number: int) -> None:
        self.trace = trace
        self.number = number

    @property
    def is_condition(self) -> bool:
        """Whether this is a comparison."""
        return list(self.trace.numbers)[self.number].name in COMPARISONS

    def __neg__(self) -> "Element":
        return self.trace.note("neg", self)

    def sqrt(self) -> "Element":
        """√ of this."""
        return self.trace.note("sqrt", self)

    def abs(self) -> "Element":
        """|this|."""
        return self.trace.note("abs", self)

    def sign(self) -> Any:
        """−1, 0 or 1."""
        return (self > 0.0).choose(1.0, (self < 0.0).choose(-1.0, self))

    def maximum(self, other: Any) -> "Element":
        """The larger of two."""
        return self.trace.note("maximum", self, other)

    def clamp(self, min: Any) -> "Element":
        """The larger of this and a number."""
        return self.maximum(min)

    def choose(self, a: Any, b: Any) -> "Element":
        """`a` where this holds, `b` elsewhere."""
        return self.trace.note("choose", self, a, b)


def _join(name: str, left: Any, right: Any) -> Any:
    if isinstance(left, Element) and isinstance(right, Element):
        return left.trace.note(name, left, right)
    if isinstance(left, Element):
        if name == "div":  # one division a step in place of one an element
            name, right = "mul", Scalar(f"_reciprocal({_text(right)})")
        return left.trace.note(name, left, right)
    if isinstance(right, Element):
        return right.trace.note(name, left, right)
    return Scalar(f"({_text(left)} {SIGNS[name]} {_text(right)})")


def reciprocal(scalar: Any) -> Any:
    """1/s; infinite for zero, as where tensors are divided."""
    return math.copysign(math.inf, scalar) if isinstance(scalar, float) and scalar == 0 else 1 / scalar


FUNCTIONS = {
    "_sqrt": sqrt,
    "_absolute": absolute,
    "_sign": sign,
    "_maximum": maximum,
    "_where": where,
    "_reciprocal": reciprocal,
    "_inf": math.inf,
    "_nan": math.nan,
}
"""What the texts of scalars mean by their names: not those that a rule's hyperparameters could have."""


def _text(scalar: Any) -> str:
    if isinstance(scalar, Scalar):
        return scalar.text
    if isinstance(scalar, int | float):
        return repr(float(scalar)).replace("inf", "_inf").replace("nan", "_nan")
    raise TypeError(f"a rule works with numbers and its arguments, not with {type(scalar).__name__}")


class Trace:
    """The instructions noted so far; equal ones are noted once."""

    def __init__(self) -> None:
        self.numbers: dict[Instruction, int] = {}
        self.slots: dict[str, int] = {}

    def note(self, name: str, *values: Any) -> Element:
        """Note an operation on elements and scalars."""
        if name == "pow":
            raise TypeError("a rule raises scalars to powers, not elements: write x * x")
        for value in values[1:] if name == "choose" else values:
            if isinstance(value, Element) and value.is_condition:
                raise TypeError("a comparison is no number: write where(condition, a, b)")
        return self._note(Instruction(name, tuple(self.element(value).number for value in values)))

    def input(self, number: int) -> Element:
        """One of the values that an element comes with."""
        return self._note(Instruction("input", (number,)))

    def element(self, value: Any) -> Element:
        """An element as it is; a scalar as a slot."""
        if isinstance(value, Element):
            return value
        return self._note(Instruction("slot", (self.slots.setdefault(_text(value), len(self.slots)),)))

    def _note(self, instruction: Instruction) -> Element:
        return Element(self, self.numbers.setdefault(instruction, len(self.numbers)))


@functools.cache
def trace(rule: Rule, structure: Structure) -> Program:
    """The program of a rule in its surroundings.

    Raises:
        TypeError: the rule does more than arithmetic and the functions of `ravine.optim.rule`.
    """
    count = 2 + len(rule.state) + bool(structure[-1])
    symbols = Trace()
    x, dx, *rest = (symbols.input(number) for number in range(count))
    around_names = [f"around_{name}" for name in surroundings.names(structure)]
    around = surroundings.given(structure, [Scalar(name) for name in around_names])
    values = [Scalar(name) for name in rule.hyperparameters]
    try:
        results = surround(rule, around, x, dx, rest, Scalar("t"), values)
    except AttributeError as error:
        raise TypeError(f"a rule is arithmetic and the functions of ravine.optim: {error}") from error
    outputs = [symbols.element(value).number for value in results]
    arguments = ", ".join(("t", *rule.hyperparameters, *around_names))
    instructions, outputs, slots = _needed(list(symbols.numbers), outputs)
    texts = list(symbols.slots)
    source = f"lambda {arguments}: ({''.join(texts[slot] + ', ' for slot in slots)})"
    scalars = eval(compile(source, f"<{rule.name}'s scalars>", "eval"), dict(FUNCTIONS))
    return Program(rule.name, count, tuple(instructions), tuple(outputs), len(slots), scalars)


def _needed(
    instructions: Sequence[Instruction], outputs: Sequence[int]
) -> tuple[list[Instruction], list[int], list[int]]:
    """The instructions that the outputs depend on, numbered again, and these; the slots that are left."""
    wanted = set(outputs)
    for number in range(len(instructions) - 1, -1, -1):
        if number in wanted and instructions[number].name not in ("input", "slot"):
            wanted.update(instructions[number].arguments)
    slots = [instructions[old].arguments[0] for old in sorted(wanted) if instructions[old].name == "slot"]
    renumbered = {old: new for new, old in enumerate(sorted(wanted))}
    kept = []
    for old in sorted(wanted):
        name, arguments = instructions[old]
        if name == "slot":
            arguments = (slots.index(arguments[0]),)
        elif name != "input":
            arguments = tuple(renumbered[number] for number in arguments)
        kept.append(Instruction(name, arguments))
    return kept, [renumbered[old] for old in outputs], slots
