"""Newton's method for many variables: products with the Hessian, never the Hessian itself."""

import math
from dataclasses import dataclass, field

from .line_search import Wolfe
from .method import Iterate, Steps
from .newton_descent import Proposal, walk_along
from .objective import Objective
from .result import Reason
from .truncated_cg import truncated_cg

# Newton's equation is solved to this share of the gradient at least.
_LOOSEST = 0.5
# Rounding can make conjugate gradients need more than the n products that suffice without.
_MOST_PRODUCTS = 2


@dataclass(frozen=True)
class NewtonCG:
    """Newton's equation by conjugate gradients, only as exactly as is worth it, and a line search.

    The residual may be min(½, √(|g| / the largest |g| so far)) of g (Dembo, Eisenstat and Steihaug 1982):
    rough far from the minimum, and towards it exact enough to converge faster than any linear rate. Where
    the curvature is negative, the direction follows it down.

    Attributes:
        wolfe: what the line search looks for.
    """

    wolfe: Wolfe = field(default_factory=Wolfe)

    def run(self, objective: Objective, start: Iterate) -> Steps:
        """The iterates after `start`."""
        steepest = 0.0

        def direct(objective: Objective, current: Iterate) -> Proposal | Reason:
            nonlocal steepest
            steepest = max(steepest, current.largest())
            forcing = min(_LOOSEST, math.sqrt(current.largest() / steepest))
            product = objective.hessian_product(current.x)
            found = truncated_cg(current.gradient, product, forcing, _MOST_PRODUCTS * objective.n)
            return Reason.NOT_FINITE if found is None else Proposal(found.step, not found.curved_down)

        return walk_along(objective, start, self.wolfe, direct)
