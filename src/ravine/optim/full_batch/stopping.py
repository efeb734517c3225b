"""When a minimization ends: the tolerances, all in one place."""

import math
from dataclasses import dataclass

import torch

from .method import Iterate
from .result import Reason

_SETTLED = 3
"""Iterations in a row, all of them small, after which x is taken as settled."""
_FLAT = 300
"""Iterations, none of which is worth its while, after which it is taken as settled though x is not."""
_STALLED = 50
"""Iterations without any progress that rounding would not explain as well."""


@dataclass
class Stopping:
    """The tolerances and the budget of iterations.

    An absolute tolerance of the gradient depends on the units of f and x: f in millionths would have
    converged before it began. So unless one is given, the run has converged where the gradient's largest
    entry is √ε of the largest one seen (ε is the precision of x: √ε is 1.5e-8 for float64) and, because a
    steep start says little about the minimum, the last step changed the value by at most √ε of it, or by ε
    of all that was gained since the start, and was at most √ε of the way that led here: three times in a row,
    because a curvature learned where it was steep makes single steps small. Where the way leads on for ever,
    steps do not become small: three hundred iterations of which all but that is true count as well.

    Whatever the tolerances, it ends as converged when for 50 iterations neither the value nor the gradient
    has become smaller by more than rounding.

    Attributes:
        gtol: the gradient's largest entry, at most this: converged.
        grtol: the same relative to the largest such entry seen.
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
            if limit is None and name not in ("xtol", "ftol"):
                continue
            if not isinstance(limit, int | float) or not limit >= 0:
                raise ValueError(f"Invalid {name}: {limit!r}; it must be a number of at least 0")
        self._steepest = 0.0
        self._start: Iterate | None = None
        self._lowest = self._flattest = math.inf
        self._idle = self._flat_for = self._settled_for = 0

    def reason(self, previous: Iterate | None, current: Iterate) -> Reason | None:
        """Why to stop at `current`, which followed `previous` (None at the start); None to go on."""
        largest = current.largest()
        if not (math.isfinite(current.value) and math.isfinite(largest)):
            return Reason.UNBOUNDED if current.value == -math.inf else Reason.NOT_FINITE
        self._steepest = max(self._steepest, largest)
        if previous is None:
            self._start = current
        if self._flat(previous, current, largest):
            return Reason.GRADIENT
        reason = None if previous is None else self._progress(previous, current, largest)
        if reason is None and self.maxiter is not None and current.nit >= self.maxiter:
            return Reason.ITERATIONS
        return reason

    def ending(self, reason: Reason, current: Iterate) -> Reason:
        """What a method's own reason to end at `current` means.

        Rounding can hide what is left to gain of any value; but where the value has fallen past all that the
        start tells of its size, and the slope is as steep as ever, no minimum is near. Where the gradient had
        become small already, there was no better point to be found.
        """
        if reason is Reason.LINE_SEARCH and self._flat_for:
            return Reason.GRADIENT
        if reason is not Reason.PRECISION or self._start is None:
            return reason
        fallen = self._start.value - current.value
        far = fallen * torch.finfo(current.x.dtype).eps ** 0.5 > abs(self._start.value)
        steep = current.largest() > 0.1 * self._steepest
        return Reason.UNBOUNDED if far and steep else reason

    def _flat(self, previous: Iterate | None, current: Iterate, largest: float) -> bool:
        if self.gtol is not None or self.grtol is not None:
            return largest <= max(self.gtol or 0.0, (self.grtol or 0.0) * self._steepest)
        if previous is None or self._start is None or largest == 0:
            return largest == 0
        precision = torch.finfo(current.x.dtype).eps
        root = float(precision**0.5)
        change = abs(previous.value - current.value)
        settled = max(root * abs(current.value), precision * (self._start.value - current.value))
        if largest > root * self._steepest or change > settled:
            self._flat_for = self._settled_for = 0
            return False
        self._flat_for += 1
        step, way = (float((current.x - from_.x).abs().max()) for from_ in (previous, self._start))
        self._settled_for = self._settled_for + 1 if step <= root * way else 0
        return self._settled_for >= _SETTLED or self._flat_for >= _FLAT

    def _progress(self, previous: Iterate, current: Iterate, largest: float) -> Reason | None:
        change = abs(previous.value - current.value)
        if self.ftol > 0 and change <= self.ftol * max(abs(previous.value), abs(current.value)):
            return Reason.VALUE
        if self.xtol > 0:
            step = float((current.x - previous.x).abs().max())
            if step <= self.xtol * float(current.x.abs().max()):
                return Reason.STEP
        return Reason.PRECISION if self._stalled(change, current, largest) else None

    def _stalled(self, change: float, current: Iterate, largest: float) -> bool:
        precision = torch.finfo(current.x.dtype).eps
        lower = current.value < self._lowest - 8 * precision * abs(self._lowest)
        flatter = largest < 0.9 * self._flattest
        if lower or self._lowest == math.inf:
            self._lowest = current.value
        if flatter:
            self._flattest = largest
        at_rest = change <= precision**0.75 * abs(current.value)
        self._idle = self._idle + 1 if at_rest and not lower and not flatter else 0
        return self._idle >= _STALLED
