"""What the gradient and the curvature say of a function around a point, beside what it is."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .objective import Objective

DOWNHILL = "negative gradient"
# The grid begins this far before the point and ends this far behind it, in lengths of the model's own step:
# its minimum stands in the left half, and what comes beyond it is seen.
_BEFORE, _BEHIND = 0.5, 2.5


@dataclass(frozen=True)
class LocalModel:
    """A function and its two models along a line, φ(t) = f(x + t·d); numbers only, so that it can be stored.

    Attributes:
        direction: what d is called.
        value: φ(0).
        slope: φ′(0) = ∇f·d.
        curvature: φ″(0) = d·H·d.
        steps: t, ascending; along the negative gradient these are learning rates.
        values: φ at each step; infinite or not-a-number where f is.
    """

    direction: str
    value: float
    slope: float
    curvature: float
    steps: tuple[float, ...]
    values: tuple[float, ...]

    def linear(self, step: float) -> float:
        """The first-order model, φ(0) + t·φ′(0): says where down is, and not how far."""
        return self.value + step * self.slope

    def quadratic(self, step: float) -> float:
        """The second-order model, φ(0) + t·φ′(0) + ½·t²·φ″(0)."""
        return self.linear(step) + 0.5 * step**2 * self.curvature

    @property
    def best_step(self) -> float | None:
        """Where the quadratic model is lowest; None where it is not curved upwards, and so has no bottom."""
        return 0.0 - self.slope / self.curvature if self.curvature > 0 else None

    def numbers(self) -> dict[str, Any]:
        """What a picture needs, for JSON: the fields, both models at each step, and the best step's value."""
        best = self.best_step
        return {
            **asdict(self),
            "linear": [self.linear(step) for step in self.steps],
            "quadratic": [self.quadratic(step) for step in self.steps],
            "best_step": best,
            "lowest": None if best is None else self.quadratic(best),
        }


def local_models(
    f: Callable[..., Any],
    x0: Any,
    directions: Mapping[str, Any] | None = None,
    *,
    steps: Tensor | None = None,
    points: int = 61,
    dtype: torch.dtype | None = None,
) -> tuple[LocalModel, ...]:
    """The linear and the quadratic model of `f` around `x0` along lines, and the function itself there.

    A gradient, one product with the Hessian a direction, and `points` values a direction: it serves networks
    of any size.

    Args:
        f: as `minimize` takes it.
        x0: the point, likewise; a module gets its parameters back.
        directions: by name, each in the structure of x0. None: the negative gradient.
        steps: multiples of the direction, 1-D. None: around the model's own step.
        points: how many steps, at least 2, where `steps` is None.
        dtype: of the computation, as `minimize` takes it.

    Raises:
        ValueError: the value, the gradient or the curvature at x0 is not finite; no steps; a direction of
            another structure than x0.
    """
    objective = Objective(f, x0, dtype=dtype)
    if points < 2:
        raise ValueError(f"Invalid points: {points}; a line takes at least 2")
    try:
        value, gradient = objective.value_and_gradient(objective.x0)
        if directions is None:
            lines = {DOWNHILL: -gradient}
        else:
            lines = {name: objective.structure.flatten(along).detach() for name, along in directions.items()}
        return tuple(
            _along(objective, value, gradient, name, line, steps, points) for name, line in lines.items()
        )
    finally:
        objective.restore(objective.x0)


def _along(
    objective: Objective,
    value: float,
    gradient: Tensor,
    name: str,
    line: Tensor,
    steps: Tensor | None,
    points: int,
) -> LocalModel:
    slope = float(gradient @ line)
    curvature = float(line @ objective.hessian_vector(objective.x0, line))
    if not all(map(math.isfinite, (value, slope, curvature))):
        raise ValueError(
            f"f has no model here: along the {name} its value is {value:g}, its slope {slope:g} and its "
            f"curvature {curvature:g}"
        )
    if steps is None:
        own = _own_step(objective.x0, line, slope, curvature)
        first, last = sorted((-_BEFORE * own, _BEHIND * own))
        grid = torch.linspace(first, last, points, dtype=torch.float64).tolist()
    else:
        grid = sorted(steps.flatten().tolist())
    values = tuple(objective.value(objective.x0 + step * line) for step in grid)
    return LocalModel(name, value, slope, curvature, tuple(grid), values)


def _own_step(x: Tensor, line: Tensor, slope: float, curvature: float) -> float:
    """To the minimum of the quadratic model, or to where it would be if the curvature had the other sign.

    Without a slope or a curvature nothing tells how far to look: a tenth of the size of x, or of 1.
    """
    if slope and curvature:
        return -slope / abs(curvature)
    size = float(torch.linalg.vector_norm(line))
    return 0.1 * max(1.0, float(torch.linalg.vector_norm(x))) / size if size else 1.0
