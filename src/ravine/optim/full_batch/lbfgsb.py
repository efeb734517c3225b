"""L-BFGS-B: L-BFGS within bounds (Byrd, Lu, Nocedal and Zhu 1995; Morales and Nocedal 2011)."""

from dataclasses import dataclass, field

from .bounds import Bounds
from .cauchy import cauchy_point, subspace_minimum
from .compact import CompactHessian
from .curvature import observe
from .descent import ending, first_scale, search, within_rounding
from .line_search import Outcome, Wolfe, more_thuente
from .method import Iterate, Steps
from .objective import Objective


@dataclass(frozen=True)
class LBFGSB:
    """L-BFGS that finds which bounds hold x by following the gradient along them. No trial leaves the bounds.

    Attributes:
        bounds: on x. The start must be within.
        memory: pairs kept; each takes four vectors.
        wolfe: what the line search looks for.
    """

    bounds: Bounds
    memory: int = 10
    wolfe: Wolfe = field(default_factory=Wolfe)

    def run(self, objective: Objective, start: Iterate) -> Steps:
        """The iterates after `start`, each with the part of the gradient that no bound is in the way of."""
        current, bounds = start, self.bounds
        hessian = CompactHessian(self.memory, start.x, 1 / first_scale(start))
        while True:
            cauchy = cauchy_point(current.x, current.gradient, bounds, hessian)
            target = cauchy.x
            if hessian.count and bool(cauchy.free.any()):
                target = subspace_minimum(current.x, current.gradient, bounds, hessian, cauchy)
            direction = target - current.x
            ray = bounds.ray(current.x, direction)
            found = search(
                more_thuente, self.wolfe, objective, current, direction, 1.0, ray.longest(), ray.settle
            )
            if found.outcome not in (Outcome.WOLFE, Outcome.IMPROVED):
                if not hessian.count or found.outcome is Outcome.UNBOUNDED or within_rounding(found, current):
                    return ending(found, current)
                hessian.clear()
                continue
            point = found.point
            # A step that a bound cut short may show no curvature: then nothing is learned from it.
            pair = observe(point.x - current.x, point.gradient - current.gradient)
            if pair is not None:
                hessian.add(pair)
            residual = bounds.residual(point.x, point.gradient)
            current = Iterate(point.x, point.value, point.gradient, current.nit + 1, point.alpha, residual)
            yield current
