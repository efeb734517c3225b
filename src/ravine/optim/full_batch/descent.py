"""What methods with a line search share: the scale of the first step, one search, and how they end."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .line_search import Found, Line, LineSearch, Outcome, Point, Wolfe, noise
from .line_search.common import dot
from .method import Iterate
from .objective import Objective
from .result import Reason

_ENDINGS = {
    Outcome.NOT_FINITE: Reason.NOT_FINITE,
    Outcome.UNBOUNDED: Reason.UNBOUNDED,
    Outcome.FAILED: Reason.LINE_SEARCH,
}


def first_scale(start: Iterate) -> float:
    """The length of the first step along minus the gradient, as a multiple of it: 2 |f| / |g|^2.

    Where f is a parabola that falls to zero along the gradient, its minimum is there. The length follows the
    units of f and x, so that a problem in other units is solved by the same steps. A constant added to f
    makes it too long, which costs the line search a few trials. Where f is 0, it is a tenth of x, and where x
    is 0 too, nothing tells of units: it is 1.
    """
    norm, size = (torch.linalg.vector_norm(v, dtype=torch.float64).item() for v in (start.gradient, start.x))
    if not 0 < norm < math.inf:
        return 1.0
    most = torch.finfo(start.x.dtype).max
    lengths = (2 * abs(start.value) / norm, 0.1 * size, 1.0)
    return next((length / norm for length in lengths if 0 < length / norm < most), 1.0)


def search(
    how: LineSearch,
    wolfe: Wolfe,
    objective: Objective,
    current: Iterate,
    direction: Tensor,
    first: float = 1.0,
    longest: float = math.inf,
    settle: Callable[[Tensor, float], Tensor] | None = None,
) -> Found:
    """Search along `direction`, (n,), from `current`; `FAILED`, without an evaluation, if it leads uphill.

    `first` and `longest` are of the line search, `settle` is of `Line`.
    """
    slope = dot(current.gradient, direction)
    start = Point(0.0, current.value, slope, current.x, current.gradient)
    if not -math.inf < slope < 0:
        return Found(Outcome.FAILED, start)
    return how(Line(objective, start, direction, settle), first, wolfe, longest)


def ending(found: Found, current: Iterate) -> Reason:
    """Why a method ends whose line search found nothing better than `current`."""
    if found.outcome is Outcome.FAILED and within_rounding(found, current):
        return Reason.PRECISION
    return _ENDINGS[found.outcome]


def within_rounding(found: Found, current: Iterate) -> bool:
    """Whether what is left to gain (of a quadratic: half of what the slope promises) is below rounding."""
    gain = -found.point.slope / 2
    return 0 <= gain <= noise(current.value, current.x.dtype)
