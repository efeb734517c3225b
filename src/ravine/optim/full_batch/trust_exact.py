"""Newton's method in a trust region: each step the least of the model in it (Moré and Sorensen 1983)."""

from dataclasses import dataclass

from .method import Iterate, Steps
from .objective import Objective
from .subproblem import ExactModel
from .trust_region import walk


@dataclass(frozen=True)
class TrustExact:
    """Minimizes the quadratic model within a radius, whatever the signs of the Hessian's eigenvalues.

    Leaves saddles along the directions of negative curvature, and is Newton's method near a minimum. For
    problems of up to some thousand variables: a Hessian and a few Cholesky factorizations an iteration.
    """

    def run(self, objective: Objective, start: Iterate) -> Steps:
        """The iterates after `start`."""
        return walk(objective, start, ExactModel)
