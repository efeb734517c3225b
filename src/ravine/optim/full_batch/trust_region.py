"""Steps within a radius in which a model of the function proved true (Conn, Gould and Toint 2000)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .damping import magnitude
from .line_search.common import FARTHEST, ROUNDINGS
from .method import Iterate, Steps
from .objective import Objective
from .result import Reason
from .subproblem import Model, ModelStep

# Shares of the predicted fall: below the first a step is refused, below the second the radius shrinks, above
# the third it grows, and above the last the model is so good that a wider step is tried with it at once.
_ACCEPTED, _POOR, _GOOD, _EXCELLENT = 1e-4, 0.25, 0.75, 0.9
_SHRINK, _GROW = 0.25, 2.0


def walk(objective: Objective, start: Iterate, make_model: Callable[[Tensor, Tensor], Model]) -> Steps:
    """Iterates of a trust-region method whose model is made of each gradient and Hessian.

    A Hessian costs far more than a value. So where a step on the boundary falls as predicted, wider ones
    are tried with the same model until that ends (Dennis and Schnabel 1983, section 6.4.3), and the first
    radius is the length of the model's own step: wrong guesses cost values only.
    """
    current, radius, farthest = start, 0.0, math.inf
    while radius <= farthest:
        hessian = objective.hessian(current.x)
        if not math.isfinite(magnitude(hessian)):
            return Reason.NOT_FINITE
        model = make_model(current.gradient, hessian)
        if current.nit == start.nit:
            radius = _first_radius(model, current.x)
            # Squares of longer steps would overflow.
            farthest = min(FARTHEST * radius, float(torch.finfo(current.x.dtype).max) ** 0.5 / 4)
        found = _advance(objective, current, model, radius, farthest)
        if isinstance(found, Reason):
            return found
        current, radius = found
        yield current
    return Reason.UNBOUNDED


def _first_radius(model: Model, x: Tensor) -> float:
    size = float(torch.linalg.vector_norm(x))
    if 0.0 < model.natural_radius < math.inf:
        # A shorter step could be lost in the rounding of x, and then the radius would never grow.
        return max(model.natural_radius, float(torch.finfo(x.dtype).eps ** 0.5) * size)
    return max(size, 1.0)


def _advance(
    objective: Objective, current: Iterate, model: Model, radius: float, farthest: float
) -> tuple[Iterate, float] | Reason:
    """The next iterate and the radius to go on with; a reason where no step leads further down."""
    best: tuple[Iterate, float] | None = None
    while True:
        proposal = model.solve(radius)
        length = float(torch.linalg.vector_norm(proposal.step))
        if not math.isfinite(length):
            return Reason.NOT_FINITE
        x = current.x + proposal.step
        if torch.equal(x, current.x):
            return Reason.PRECISION if negligible(model.gain, current) else Reason.LINE_SEARCH
        value, gradient = objective.value_and_gradient(x)
        trial = Iterate(x, value, gradient, current.nit + 1, 1.0)
        share = _share(current, trial, proposal)
        if best is not None and not (share >= _GOOD and value < best[0].value):
            return best
        if share < _ACCEPTED:
            if negligible(model.gain, current):
                return Reason.PRECISION
            radius = _SHRINK * length
        elif share < _POOR:
            return trial, _SHRINK * length
        elif share < _GOOD or not proposal.on_boundary:
            return trial, radius
        elif share < _EXCELLENT or value == -math.inf or radius > farthest:
            return trial, _GROW * radius
        else:
            best, radius = (trial, radius), _GROW * radius


def _share(current: Iterate, trial: Iterate, proposal: ModelStep) -> float:
    """The share of the predicted fall that came true; −∞ where the trial is not finite, unless it is −∞.

    Where the prediction is below the rounding of the value, the gradient is asked instead.
    """
    if trial.value == -math.inf:
        return math.inf
    if not (math.isfinite(trial.value) and bool(torch.isfinite(trial.gradient).all())):
        return -math.inf
    if negligible(proposal.reduction, current):
        return 1.0 if halved(current, trial) else -math.inf
    return (current.value - trial.value) / proposal.reduction


def negligible(difference: float, current: Iterate) -> bool:
    """Whether a difference between values is below what rounding makes of the value."""
    return difference <= ROUNDINGS * torch.finfo(current.x.dtype).eps * abs(current.value)


def halved(current: Iterate, trial: Iterate) -> bool:
    """Whether a step was worth it though the value cannot tell: the gradient is right to more digits."""
    return trial.largest() <= 0.5 * current.largest()
