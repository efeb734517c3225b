"""The step of L-BFGS-B: the generalized Cauchy point, and the minimum over what is free there."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .bounds import Bounds
from .compact import CompactHessian


class CauchyPoint(NamedTuple):
    """The first minimum of the model along the gradient path bent at the bounds.

    Attributes:
        x: (n,).
        free: (n,), the elements that have not met a bound.
    """

    x: Tensor
    free: Tensor


def cauchy_point(x: Tensor, gradient: Tensor, bounds: Bounds, hessian: CompactHessian) -> CauchyPoint:
    """The generalized Cauchy point (Byrd, Lu, Nocedal and Zhu 1995, section 4).

    Along the path each element goes along minus its gradient until it meets its bound. The paper walks from
    one bend to the next; here the slope and the curvature after every bend are sums over the elements still
    moving, all found at once.

    Args:
        x: (n,), within the bounds.
        gradient: (n,).
        bounds: on x.
        hessian: of the model.
    """
    ray = bounds.ray(x, -gradient)
    meets = ray.room
    direction = torch.where(meets > 0, -gradient, 0.0)
    bends = ((meets > 0) & meets.isfinite() & (direction != 0)).nonzero().squeeze(1)
    bends = bends[torch.argsort(meets[bends])]
    times = torch.cat([meets.new_zeros(1), meets[bends]])
    unbent = direction.index_fill(0, bends, 0.0)
    along = direction[bends]
    # In column j: what is summed over the elements that move after bend j.
    squares = _still_moving(along.square().unsqueeze(0), torch.dot(unbent, unbent).reshape(1)).squeeze(0)
    p = _still_moving(hessian.W[:, bends] * along, hessian.W @ unbent)
    c = torch.cat([p.new_zeros(len(p), 1), (p[:, :-1] * times.diff()).cumsum(1)], dim=1)
    mp = hessian.middle(p)
    slope = squares * (hessian.theta * times - 1) - (mp * c).sum(0)
    curvature = hessian.theta * squares - (mp * p).sum(0)
    time = _first_minimum(times, slope, curvature, 1 / hessian.theta)
    return CauchyPoint(ray.settle(x + time * direction, time), (meets > time) & (bounds.lower < bounds.upper))


def _still_moving(columns: Tensor, unbent: Tensor) -> Tensor:
    """Sums of the columns j, j + 1, ... and of what never bends, for each j up to one past the last."""
    every = torch.cat([columns, unbent.unsqueeze(1)], dim=1)
    return every.flip(1).cumsum(1).flip(1)


def _first_minimum(times: Tensor, slope: Tensor, curvature: Tensor, default: float) -> float:
    """Where the piecewise parabola stops falling: at a bend, or within the piece after it."""
    ahead = torch.where(curvature > 0, -slope / curvature, torch.where(slope < 0, torch.inf, 0.0))
    lengths = torch.cat([times.diff(), times.new_full((1,), torch.inf)])
    found = ((slope >= 0) | (ahead < lengths)).nonzero()
    if not len(found):
        return times[-1].item() + default
    first = int(found[0])
    step = max(0.0, ahead[first].item()) if slope[first] < 0 else 0.0
    return times[first].item() + (step if math.isfinite(step) else default)


def subspace_minimum(
    x: Tensor, gradient: Tensor, bounds: Bounds, hessian: CompactHessian, cauchy: CauchyPoint
) -> Tensor:
    """The minimum of the model over the elements free at the Cauchy point, brought back within the bounds.

    It is projected (Morales and Nocedal 2011); where that does not lead downhill, the step from the Cauchy
    point is cut at the first bound instead (Byrd et al. 1995, eq. 5.8).

    Returns:
        (n,).
    """
    held = torch.where(cauchy.free, 0.0, cauchy.x - x)
    # From x, not from the Cauchy point: on badly scaled problems the model's gradient there is rounding.
    right = gradient + hessian.product(held) if bool(held.any()) else gradient
    wanted = torch.where(cauchy.free, x - hessian.solve(right, cauchy.free), cauchy.x)
    projected = bounds.clip(wanted)
    if torch.dot(gradient, projected - x) < 0:
        return projected
    step = wanted - cauchy.x
    share = min(1.0, bounds.ray(cauchy.x, step).longest())
    return bounds.clip(cauchy.x + share * step)
