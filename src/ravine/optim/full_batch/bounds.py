"""Bounds on x, as vectors."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROUNDINGS = 4
"""A point this close to a bound, in roundings of the way there, was meant to be on it."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """lower <= x <= upper, element by element.

    Attributes:
        lower: (n,), -inf where there is none.
        upper: (n,), inf where there is none.
    """

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        for vector in (self.lower, self.upper):
            if bool(vector.isnan().any()):
                raise ValueError("a bound is not a number")
        crossed = (self.lower > self.upper).nonzero()
        if len(crossed):
            i = int(crossed[0])
            raise ValueError(
                f"element {i} of x has a lower bound of {self.lower[i]:g}, "
                f"above its upper bound of {self.upper[i]:g}"
            )

    def clip(self, x: Tensor) -> Tensor:
        """The nearest point within the bounds."""
        return x.clamp(self.lower, self.upper)

    def residual(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient where x may follow it, 0 where a bound is in the way: zero at a solution.

        Unlike the length of the projected gradient step it does not weigh distances against slopes, which
        have other units.
        """
        blocked = ((gradient > 0) & (x <= self.lower)) | ((gradient < 0) & (x >= self.upper))
        return gradient.masked_fill(blocked, 0.0)

    def ray(self, x: Tensor, direction: Tensor) -> "Ray":
        """The way from `x`, within the bounds, along `direction`."""
        ahead = torch.where(direction > 0, self.upper, self.lower)
        room = torch.where(direction == 0, torch.inf, (ahead - x) / direction).clamp(min=0.0)
        return Ray(self, ahead, room)


class Ray(NamedTuple):
    """A way that meets bounds.

    Attributes:
        bounds: these.
        ahead: (n,), the bound that each element comes nearer to.
        room: (n,), as a multiple of the direction, how far each can go until it is there: inf where never.
    """

    bounds: Bounds
    ahead: Tensor
    room: Tensor

    def longest(self) -> float:
        """How far all can go."""
        return float(self.room.min())

    def settle(self, x: Tensor, alpha: float) -> Tensor:
        """The point `alpha` along the way: exactly on the bounds it meets but for rounding, never beyond."""
        near = 1 - ROUNDINGS * torch.finfo(x.dtype).eps
        return self.bounds.clip(torch.where(self.room * near <= alpha, self.ahead, x))


def make_bounds(given: Any, like: Tensor, flatten: Callable[[Any], Tensor]) -> Bounds:
    """Bounds for vectors like `like`, (n,), from what a user gives.

    Args:
        given: a sequence of n pairs (low, high) or SciPy's `Bounds`; or one pair for all of x, each of it a
            number or a structure of tensors like x0. None, -inf and inf are no bound.
        like: what x is like.
        flatten: from a structure like x0 to a vector.

    Raises:
        ValueError: the number of bounds is not that of x; a lower bound above its upper bound, or nan; no
            bounds at all.
    """
    if isinstance(given, torch.Tensor) or hasattr(given, "__array__"):
        given = torch.as_tensor(given).tolist()
    elif hasattr(given, "lb") and hasattr(given, "ub"):  # scipy.optimize.Bounds
        given = (given.lb, given.ub)
    if not isinstance(given, Iterable):
        raise ValueError(f"bounds must be pairs (low, high), not {given!r}")
    given = list(given) if not isinstance(given, tuple) else given
    if _is_pair(given) and not all(_is_pair(side) and _is_numbers(side) for side in given):
        low, high = (
            _side(side, missing, like, flatten)
            for side, missing in zip(given, (-torch.inf, torch.inf), strict=True)
        )
        return Bounds(low, high)
    pairs = list(given)
    if len(pairs) != like.numel() or not all(_is_pair(pair) for pair in pairs):
        raise ValueError(
            f"x has {like.numel()} elements, so bounds must be {like.numel()} pairs (low, high), or one"
        )
    if not all(_is_numbers(pair) for pair in pairs):
        raise ValueError("bounds must be pairs of numbers, or None where there is no bound")
    low = like.new_tensor([-torch.inf if pair[0] is None else float(pair[0]) for pair in pairs])
    high = like.new_tensor([torch.inf if pair[1] is None else float(pair[1]) for pair in pairs])
    return Bounds(low, high)


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple | list) and len(given) == 2


def _is_numbers(given: Any) -> bool:
    return all(item is None or _is_number(item) for item in given)


def _is_number(item: Any) -> bool:
    """Whether it is one number: Python's, NumPy's, or a tensor without axes."""
    return isinstance(item, Real) or (hasattr(item, "ndim") and item.ndim == 0)


def _side(side: Any, missing: float, like: Tensor, flatten: Callable[[Any], Tensor]) -> Tensor:
    if side is None:
        return torch.full_like(like, missing)
    if _is_number(side):
        return torch.full_like(like, float(side))
    return flatten(side).detach()
