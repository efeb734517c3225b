"""A function to minimize: where to start, and what is known of its minima."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Residuals = Callable[[Tensor], Tensor]

# Published minima have six digits. A minimum of zero is taken as reached at this share of the value at the
# start, or at this value where the start is higher than 1: far below what a stop in a valley would leave.
_DIGITS = 1e-5
_ZERO = 1e-8


@dataclass(frozen=True)
class Minimum:
    """A local minimum, or an infimum that is approached at infinity.

    Attributes:
        value: of the function, to the digits published; zero is exact.
        point: where, n numbers to the digits published. None where nobody says, or it is at infinity.
    """

    value: float
    point: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """A sum of squares, f(x) = Σᵢ rᵢ(x)²: call it with x of shape (..., n) for values of shape (...).

    Leading dimensions are a batch, so that a grid of points is one call. The function is computed in the
    dtype and on the device of x, and torch differentiates it as often as asked.

    Attributes:
        name: in lower case, as it is called in the literature.
        number: in its collection.
        residuals: from (..., n) to (..., m).
        start: the standard starting point, n numbers.
        minima: those the collection's paper states; empty where it has none for this n.
        others: further local minima and infima known, in ascending order. A descent may end there.
    """

    name: str
    number: int
    residuals: Residuals
    start: tuple[float, ...]
    minima: tuple[Minimum, ...] = ()
    others: tuple[Minimum, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """The values f(x), of shape (...)."""
        return self.residuals(x).square().sum(-1)

    @property
    def n(self) -> int:
        """How many variables there are."""
        return len(self.start)

    @property
    def label(self) -> str:
        """The name and the size."""
        return f"{self.name} ({self.n})"

    def x0(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The starting point as a new tensor, of shape (n,)."""
        return torch.tensor(self.start, dtype=dtype)

    def reached(self, value: float) -> Minimum | None:
        """The known minimum whose value this is, to the six digits that are published; else None."""
        for minimum in (*self.minima, *self.others):
            if abs(value - minimum.value) <= self.slack(minimum):
                return minimum
        return None

    def slack(self, minimum: Minimum) -> float:
        """How far a value may be from this minimum and still count as it."""
        return _DIGITS * minimum.value + _ZERO * min(1.0, float(self(self.x0())))


def minima(*values: float) -> tuple[Minimum, ...]:
    """Minima of which only the values are known."""
    return tuple(Minimum(value) for value in values)


def counting(x: Tensor, first: int, last: int) -> Tensor:
    """The numbers first, ..., last, with the dtype and on the device of x."""
    return torch.arange(first, last + 1, dtype=x.dtype, device=x.device)


def constants(x: Tensor, values: Sequence[float]) -> Tensor:
    """These values, with the dtype and on the device of x."""
    return torch.tensor(values, dtype=x.dtype, device=x.device)
