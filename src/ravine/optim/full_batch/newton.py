"""Newton's method: in its plain form, and made safe by damping and a line search."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .damping import damped, magnitude
from .line_search import Wolfe
from .method import Iterate, Steps
from .newton_descent import Proposal, walk_along
from .objective import Objective
from .result import Reason


@dataclass(frozen=True)
class Newton:
    """x ← x − α·(H + λ·I)⁻¹·∇f(x), with the exact Hessian H.

    λ is 0 where H is positive definite, otherwise just large enough to make it so (`damping.damped`), and a
    line search finds α, beginning at 1. For problems of up to some thousand variables: a Hessian and a
    Cholesky factorization an iteration.

    Attributes:
        plain: always λ = 0 and α = 1, as the method is written: no learning rate, one step to the minimum
            of a quadratic, and nothing that keeps it from a saddle, a maximum or ever larger steps. It ends
            where H is singular.
        wolfe: what the line search looks for.
    """

    plain: bool = False
    wolfe: Wolfe = field(default_factory=Wolfe)

    def run(self, objective: Objective, start: Iterate) -> Steps:
        """The iterates after `start`."""
        if self.plain:
            return _undamped(objective, start)
        return walk_along(objective, start, self.wolfe, propose)


def propose(objective: Objective, current: Iterate) -> Proposal | Reason:
    """Newton's step with the Hessian damped where it is not positive definite."""
    hessian = objective.hessian(current.x)
    if not math.isfinite(magnitude(hessian)):
        return Reason.NOT_FINITE
    factor = damped(hessian)
    return Proposal(factor.solve(-current.gradient), whole=not factor.shift)


def _undamped(objective: Objective, current: Iterate) -> Steps:
    while True:
        hessian = objective.hessian(current.x)
        if not math.isfinite(magnitude(hessian)):
            return Reason.NOT_FINITE
        step = newton_step(current.gradient, hessian)
        if step is None:
            return Reason.SINGULAR
        x = current.x + step
        current = Iterate(x, *objective.value_and_gradient(x), current.nit + 1, 1.0)
        yield current


def newton_step(gradient: Tensor, hessian: Tensor) -> Tensor | None:
    """−H⁻¹·g, whatever the signs of H's eigenvalues; None where H is singular to rounding.

    Args:
        gradient: g, (n,).
        hessian: H, (n, n), symmetric and finite.
    """
    sizes = hessian.abs().amax(1)
    if not bool(sizes.all()):
        return None
    # In units in which the curvatures are alike, a pivot that is tiny tells of a singular matrix.
    units = sizes.rsqrt()
    factors, pivots, _ = torch.linalg.lu_factor_ex(units[:, None] * hessian * units)
    if float(factors.diagonal().abs().min()) <= len(hessian) * torch.finfo(hessian.dtype).eps:
        return None
    solution: Tensor = torch.linalg.lu_solve(factors, pivots, -(units * gradient).unsqueeze(1)).squeeze(1)
    return units * solution
