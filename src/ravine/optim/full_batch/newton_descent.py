"""Steps along directions of Newton's kind: they have a length of their own, which is tried first."""

from collections.abc import Callable

import torch
from torch import Tensor

from .descent import ending, search
from .line_search import Outcome, Wolfe, more_thuente
from .method import Iterate, Steps
from .objective import Objective
from .result import Reason
from .trust_region import halved, negligible


def walk_along(
    objective: Objective,
    start: Iterate,
    wolfe: Wolfe,
    direct: Callable[[Objective, Iterate], Tensor | Reason],
) -> Steps:
    """Iterates along the directions of `direct`.

    Args:
        objective: the function.
        start: where to begin.
        wolfe: what the line search looks for.
        direct: the step a method proposes at an iterate, (n,), along which the function falls at first; or
            the reason why it has none.
    """
    current = start
    while True:
        direction = direct(objective, current)
        if isinstance(direction, Reason):
            return direction
        found = search(more_thuente, wolfe, objective, current, direction)
        point = found.point
        reached = Iterate(point.x, point.value, point.gradient, current.nit + 1, point.alpha)
        # A quadratic with this step to its minimum falls by half of what the slope promises.
        gain = -0.5 * float(torch.dot(current.gradient, direction))
        if negligible(gain, current) and not halved(current, reached):
            return Reason.PRECISION
        if found.outcome not in (Outcome.WOLFE, Outcome.IMPROVED):
            return ending(found, current)
        current = reached
        yield current
