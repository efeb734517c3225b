"""Steps along directions of Newton's kind: they have a length of their own, which is tried first."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .descent import ending, search
from .line_search import LineSearch, Outcome, Wolfe, more_thuente
from .method import Iterate, Steps
from .objective import Objective
from .result import Reason
from .trust_region import halved, negligible


class Proposal(NamedTuple):
    """The step a method proposes.

    Attributes:
        step: (n,), along which the function falls at first.
        whole: whether it leads to the minimum of the quadratic model, so that the model tells what is left to
            gain; not where there is none, and the model was damped or left along negative curvature.
    """

    step: Tensor
    whole: bool


def walk_along(
    objective: Objective,
    start: Iterate,
    wolfe: Wolfe,
    direct: Callable[[Objective, Iterate], Proposal | Reason],
    how: LineSearch = more_thuente,
) -> Steps:
    """Iterates along the directions of `direct`.

    Args:
        objective: the function.
        start: where to begin.
        wolfe: what the line search looks for.
        direct: what a method proposes at an iterate, or the reason why it has nothing to propose.
        how: the line search.
    """
    current = start
    while True:
        proposal = direct(objective, current)
        if isinstance(proposal, Reason):
            return proposal
        # A quadratic with this step to its minimum falls by half of what the slope promises.
        gain = -0.5 * float(torch.dot(current.gradient, proposal.step))
        if proposal.whole and negligible(gain, current):
            x = current.x + proposal.step
            reached = Iterate(x, *objective.value_and_gradient(x), current.nit + 1, 1.0)
            if not halved(current, reached):
                return Reason.PRECISION
        else:
            found = search(how, wolfe, objective, current, proposal.step)
            if found.outcome not in (Outcome.WOLFE, Outcome.IMPROVED):
                reason = ending(found, current)
                # Of what a damped model promises, nothing follows.
                damped_only = reason is Reason.PRECISION and not proposal.whole
                return Reason.LINE_SEARCH if damped_only else reason
            point = found.point
            reached = Iterate(point.x, point.value, point.gradient, current.nit + 1, point.alpha)
        current = reached
        yield current
