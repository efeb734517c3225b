"""What BFGS and L-BFGS share: everything but how they remember the curvature."""

from typing import Literal, Protocol, get_args

from torch import Tensor

from .curvature import Pair, observe
from .descent import ending, search, within_rounding
from .line_search import LineSearch, Outcome, Wolfe, hager_zhang, more_thuente
from .method import Iterate, Steps
from .objective import Objective

LineSearchName = Literal["more-thuente", "hager-zhang"]
_SEARCHES: dict[str, LineSearch] = {"more-thuente": more_thuente, "hager-zhang": hager_zhang}


class Curvature(Protocol):
    """An approximation H of the inverse Hessian that learns from pairs."""

    count: int

    def direction(self, gradient: Tensor) -> Tensor:
        """-H times `gradient`, (n,)."""
        ...

    def add(self, pair: Pair) -> None:
        """Learn from `pair`."""
        ...

    def clear(self) -> None:
        """Forget the pairs, but not the scale."""
        ...


def line_search_named(name: str) -> LineSearch:
    """The line search of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in _SEARCHES:
        raise ValueError(f"Invalid line_search: {name!r}; valid are {', '.join(get_args(LineSearchName))}")
    return _SEARCHES[name]


def walk(
    objective: Objective, current: Iterate, curvature: Curvature, how: LineSearch, wolfe: Wolfe
) -> Steps:
    """The iterates after `current`: the unit step first, which near a minimum is the right one."""
    while True:
        found = search(how, wolfe, objective, current, curvature.direction(current.gradient))
        if found.outcome not in (Outcome.WOLFE, Outcome.IMPROVED):
            if not curvature.count or found.outcome is Outcome.UNBOUNDED or within_rounding(found, current):
                return ending(found, current)
            # What was learned leads nowhere: begin again with the gradient.
            curvature.clear()
            continue
        point = found.point
        # The direction was -H g, so the step is -alpha H g, and B s is -alpha g.
        pair = observe(
            point.x - current.x, point.gradient - current.gradient, current.gradient * -point.alpha
        )
        if pair is not None:
            curvature.add(pair)
        current = Iterate(point.x, point.value, point.gradient, current.nit + 1, point.alpha)
        yield current
