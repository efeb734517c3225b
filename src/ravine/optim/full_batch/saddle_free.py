"""Saddle-free Newton (Dauphin et al. 2014, arXiv:1406.2572): Newton's step with |H| in place of H."""

from dataclasses import dataclass

from .method import Iterate, Steps
from .objective import Objective
from .subproblem import absolute_model
from .trust_region import walk


@dataclass(frozen=True)
class SaddleFreeNewton:
    """Divides the gradient by the curvature's absolute value in each direction, within a trust region.

    Newton's method is drawn to saddles, as it goes to where the gradient is zero; this one is driven off
    them as fast. For problems of up to some thousand variables: a Hessian an iteration, and its eigenvalues
    where one is negative.
    """

    def run(self, objective: Objective, start: Iterate) -> Steps:
        """The iterates after `start`."""
        return walk(objective, start, absolute_model)
