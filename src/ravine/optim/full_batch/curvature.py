"""What a step tells about the curvature, and when it can be believed."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .line_search.common import dot

# The inverse curvature of the last step alone, s'y / y'y, jumps from step to step and leans to the steepest
# directions. Its running geometric mean, somewhat widened, needs 5 to 15 % fewer evaluations, on the problems
# of Moré, Garbow and Hillstrom and on softmax regressions alike.
_NEWEST = 0.3
_WIDER = 1.5


class Pair(NamedTuple):
    """A step and the change of the gradient along it, with positive curvature s'y."""

    s: Tensor
    y: Tensor
    sy: float
    yy: float

    @property
    def scale(self) -> float:
        """The inverse curvature s'y / y'y."""
        return self.sy / self.yy


def observe(s: Tensor, y: Tensor, bs: Tensor | None = None) -> Pair | None:
    """The pair of a step and its change of the gradient.

    Curvature counts as positive where the angle between s and y is below 90 degrees by more than rounding: a
    threshold on s'y itself would depend on the units of f and x.

    Args:
        s: the step, (n,).
        y: the change, (n,).
        bs: the product of the present Hessian approximation with s, (n,). Where the curvature is not
            positive, y is moved towards it until it is (Powell 1978).

    Returns:
        None where there is no positive curvature and no `bs` to repair it.
    """
    sy, ss, yy = torch.stack([torch.dot(s, y), torch.dot(s, s), torch.dot(y, y)]).tolist()
    if not math.isfinite(sy + ss + yy):  # squares that float32 cannot hold
        sy, ss, yy = dot(s, y), dot(s, s), dot(y, y)
    type_ = torch.finfo(s.dtype)
    positive = yy > 0 and sy > type_.eps * math.sqrt(ss) * math.sqrt(yy)
    if positive and 0 < sy / yy <= type_.max:
        return Pair(s, y, sy, yy)
    curvature = 0.0 if bs is None else dot(s, bs)
    if bs is None or not max(sy, 0.0) < curvature < math.inf:
        return None
    # A fifth of the curvature that was expected (Nocedal and Wright, procedure 18.2).
    theta = 0.8 * curvature / (curvature - sy)
    return observe(s, torch.lerp(bs, y, theta))


def rescaled(gamma: float | None, pair: Pair) -> float:
    """What L-BFGS takes for the inverse curvature where no pair says anything.

    Args:
        gamma: what it took so far; None before the first pair.
        pair: the newest.
    """
    newest = _WIDER * pair.scale
    return newest if gamma is None else float(gamma ** (1 - _NEWEST) * newest**_NEWEST)
