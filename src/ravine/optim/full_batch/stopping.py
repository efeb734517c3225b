"""When a minimization ends: the tolerances, all in one place."""

import math
from dataclasses import dataclass

import torch

from .method import Iterate
from .result import Reason


@dataclass
class Stopping:
    """The tolerances and the budget of iterations.

    A tolerance of the gradient that is absolute depends on the units of f and x: f in millionths would have
    converged before it began. So unless one is asked for, the gradient is measured by the largest one seen.

    Attributes:
        gtol: the gradient's largest entry, at most this: converged. None: as `grtol` says.
        grtol: the same relative to the largest such entry since the start; None: the square root of the
            precision of x (1.5e-8 for float64) where `gtol` is None, else 0.
        xtol: the largest entry of the last step relative to that of x, at most this: converged. 0: no such
            rule.
        ftol: the last change of the value relative to it, at most this: converged. 0: no such rule.
        maxiter: iterations; None: as many as it takes.
    """

    gtol: float | None = None
    grtol: float | None = None
    xtol: float = 0.0
    ftol: float = 0.0
    maxiter: int | None = None

    def __post_init__(self) -> None:
        for name in ("gtol", "grtol", "xtol", "ftol", "maxiter"):
            limit = getattr(self, name)
            if limit is not None and not limit >= 0:
                raise ValueError(f"Invalid {name}: {limit}; it must be at least 0")
        self._steepest = 0.0

    def reason(self, previous: Iterate | None, current: Iterate) -> Reason | None:
        """Why to stop at `current`, which followed `previous` (None at the start); None to go on."""
        largest = current.largest()
        if not (math.isfinite(current.value) and math.isfinite(largest)):
            return Reason.UNBOUNDED if current.value == -math.inf else Reason.NOT_FINITE
        self._steepest = max(self._steepest, largest)
        if largest <= self._gradient_limit(current):
            return Reason.GRADIENT
        if previous is not None:
            reason = self._progress(previous, current)
            if reason is not None:
                return reason
        if self.maxiter is not None and current.nit >= self.maxiter:
            return Reason.ITERATIONS
        return None

    def _gradient_limit(self, current: Iterate) -> float:
        relative = self.grtol
        if relative is None:
            relative = torch.finfo(current.x.dtype).eps ** 0.5 if self.gtol is None else 0.0
        return max(self.gtol or 0.0, relative * self._steepest)

    def _progress(self, previous: Iterate, current: Iterate) -> Reason | None:
        if self.ftol > 0:
            scale = max(abs(previous.value), abs(current.value))
            if abs(previous.value - current.value) <= self.ftol * scale:
                return Reason.VALUE
        if self.xtol > 0:
            step = float((current.x - previous.x).abs().max())
            if step <= self.xtol * float(current.x.abs().max()):
                return Reason.STEP
        return None
