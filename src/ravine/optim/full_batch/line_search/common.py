"""A function along a line, what a line search finds there, and the conditions it looks for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..objective import Objective

SHRINK = 0.1
"""Towards the best point, from a trial that was not finite: this much of the distance remains."""
FARTHEST = 1e20
"""As many times the first trial: a function that still falls there as steeply is taken as unbounded."""
ROUNDINGS = 8
"""Differences between values below this many roundings of the value carry no information."""


class Side(NamedTuple):
    """One end of an interval, as far as interpolation is concerned."""

    alpha: float
    value: float
    slope: float


@dataclass(frozen=True, slots=True)
class Point:
    """phi(alpha) = f(x + alpha d) and its derivative, with the full point and gradient behind them."""

    alpha: float
    value: float
    slope: float
    x: Tensor
    gradient: Tensor

    @property
    def finite(self) -> bool:
        """Whether the value and the slope are."""
        return math.isfinite(self.value) and math.isfinite(self.slope)

    def side(self, tilt: float = 0.0) -> Side:
        """This point of phi(alpha) - tilt alpha."""
        return Side(self.alpha, self.value - tilt * self.alpha, self.slope - tilt)


class Outcome(Enum):
    """How a line search ended."""

    WOLFE = auto()
    IMPROVED = auto()
    FAILED = auto()
    NOT_FINITE = auto()
    UNBOUNDED = auto()


@dataclass(frozen=True, slots=True)
class Found:
    """What a line search found: the point is the start of the line where there is nothing better."""

    outcome: Outcome
    point: Point


class Line:
    """phi(alpha) = f(x + alpha d) from a point whose value and gradient are known.

    Attributes:
        start: phi(0).
        noise: what rounding may do to the value around the start.
        end: the largest alpha that the type of x can hold.
    """

    def __init__(
        self,
        objective: Objective,
        start: Point,
        direction: Tensor,
        settle: Callable[[Tensor, float], Tensor] | None = None,
    ) -> None:
        """The line from `start`.

        Args:
            objective: f.
            start: its slope is the product of the gradient and the direction.
            direction: (n,).
            settle: takes a point of the line and its alpha to where the point belongs, if it met bounds.
        """
        self._settle = settle
        self._objective = objective
        self._direction = direction
        self.start = start
        self.noise = noise(start.value, direction.dtype)
        self.end = torch.finfo(direction.dtype).max

    def at(self, alpha: float) -> Point:
        """The function and its derivative at `alpha`: one evaluation."""
        x = torch.add(self.start.x, self._direction, alpha=alpha)
        if self._settle is not None:
            x = self._settle(x, alpha)
        value, gradient = self._objective.value_and_gradient(x)
        return Point(alpha, value, dot(gradient, self._direction), x, gradient)

    @cached_property
    def finest(self) -> float:
        """Shorter steps than this alpha change no element of x at all."""
        steps = self.start.x.abs() / self._direction.abs()
        shortest = float(steps.nan_to_num(nan=math.inf, posinf=math.inf).min()) if len(steps) else 0.0
        return 0.5 * torch.finfo(self._direction.dtype).eps * shortest

    def lost(self, point: Point) -> bool:
        """Whether the step to `point` was lost in the rounding of x."""
        same = point.value == self.start.value and point.slope == self.start.slope
        return same and torch.equal(point.x, self.start.x)

    def alike(self, point: Point) -> bool:
        """Whether only rounding tells the value at `point` from that at the start."""
        return abs(point.value - self.start.value) <= self.noise


@dataclass(frozen=True, slots=True)
class Wolfe:
    """The strong Wolfe conditions, and what replaces the first where values are equal but for rounding.

    Attributes:
        c1: phi(alpha) <= phi(0) + c1 alpha phi'(0).
        c2: |phi'(alpha)| <= c2 |phi'(0)|; 0 < c1 <= c2 < 1.
    """

    c1: float = 1e-4
    c2: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.c1 <= self.c2 < 1:
            raise ValueError(f"Invalid c1, c2: {self.c1}, {self.c2}; they must keep 0 < c1 <= c2 < 1")

    def decreased(self, line: Line, point: Point) -> bool:
        """The first condition: enough was gained."""
        return point.value <= line.start.value + self.c1 * point.alpha * line.start.slope

    def accepts(self, line: Line, point: Point) -> bool:
        """Both conditions; or, where only rounding tells the values apart, the first one as slopes tell it.

        A parabola keeps the first if its slope is at most (2 c1 - 1) phi'(0) (Hager and Zhang 2005).
        """
        slope = line.start.slope
        if not abs(point.slope) <= -self.c2 * slope:
            return False
        if self.decreased(line, point):
            return True
        return line.alike(point) and point.slope <= (2 * self.c1 - 1) * slope


def noise(value: float, dtype: torch.dtype) -> float:
    """What rounding may do to a `value`: far more than its last digit, where it is a sum that cancels."""
    return float(torch.finfo(dtype).eps ** 0.75 * abs(value))


class LineSearch(Protocol):
    """Looks along a line for a point that satisfies the Wolfe conditions."""

    def __call__(self, line: Line, first: float, wolfe: Wolfe, longest: float = math.inf) -> Found:
        """Start at alpha = `first` and go no farther than `longest`."""
        ...


def dot(a: Tensor, b: Tensor) -> float:
    """The product of two vectors; in float64 where its terms are too large for their type."""
    product = torch.dot(a, b).item()
    if math.isfinite(product) or a.dtype == torch.float64:
        return product
    return torch.dot(a.double(), b.double()).item()


def finish(line: Line, best: Point) -> Found:
    """What to return when no point satisfies the conditions: the best one if it is better than the start."""
    improved = best.value < line.start.value
    return Found(Outcome.IMPROVED if improved else Outcome.FAILED, best if improved else line.start)


def cubic_minimum(a: Side, b: Side) -> float:
    """Where the cubic through both values and slopes has its minimum; nan if it has none.

    Exact near `a` even where `b` is higher by very much, as it is after a step far too long.
    """
    width = b.alpha - a.alpha
    theta = 3 * (a.value - b.value) / width + a.slope + b.slope
    scale = max(abs(theta), abs(a.slope), abs(b.slope))
    if scale == 0 or not math.isfinite(scale):
        return math.nan
    inside = (theta / scale) ** 2 - (a.slope / scale) * (b.slope / scale)
    if inside < 0:
        return math.nan
    gamma = math.copysign(scale * math.sqrt(inside), width)
    denominator = b.slope - a.slope + 2 * gamma
    if denominator == 0:
        return math.nan
    # gamma^2 - theta^2 = - the product of the slopes: so written, nothing cancels in gamma + theta.
    both = gamma + theta if gamma * theta >= 0 else -(b.slope / (gamma - theta)) * a.slope
    return a.alpha + width * (both - a.slope) / denominator


def secant(a: Side, b: Side) -> float:
    """Where the line through both slopes is zero; nan if it is nowhere."""
    difference = b.slope - a.slope
    return b.alpha - b.slope * (b.alpha - a.alpha) / difference if difference else math.nan


def quadratic_minimum(a: Side, b: Side) -> float:
    """Where the parabola through both values and the slope of `a` has its minimum; nan if it has none."""
    width = b.alpha - a.alpha
    bend = (a.value - b.value) / width + a.slope
    return a.alpha + a.slope / bend / 2 * width if bend else math.nan
