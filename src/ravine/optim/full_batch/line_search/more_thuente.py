"""The line search of Moré and Thuente (1994, ACM TOMS 20, 286-307)."""

import math

from .common import (
    FARTHEST,
    SHRINK,
    Found,
    Line,
    Outcome,
    Point,
    Side,
    Wolfe,
    cubic_minimum,
    finish,
    quadratic_minimum,
    secant,
)

TRIALS = 20
ALIKE = 6
"""Trials whose values only rounding tells from the start's: their slopes too are rounding then."""
PATIENT = 2
"""Trials before it is asked whether they still move x."""
_NARROW = 0.66
_LONGER = 4.0


def more_thuente(line: Line, first: float, wolfe: Wolfe, longest: float = math.inf) -> Found:
    """A point that satisfies the strong Wolfe conditions, by cubic interpolation and safeguards.

    Args:
        line: the function along the direction; its slope at 0 is negative.
        first: the first trial, above 0.
        wolfe: the conditions.
        longest: no trial goes farther.

    Returns:
        `WOLFE` and the point; `IMPROVED` and the best point where no trial satisfies the conditions (because
        of `longest`, a wall of values that are not finite, or rounding); `FAILED`, `NOT_FINITE`, `UNBOUNDED`.
    """
    return _Search(line, wolfe, min(first, longest, line.end), longest).run()


class _Search:
    """The interval [best, other], of which `best` has the lowest value found so far."""

    def __init__(self, line: Line, wolfe: Wolfe, first: float, longest: float) -> None:
        self.line, self.wolfe = line, wolfe
        self.best = self.other = line.start
        self.alpha = first
        self.longest, self.wall = longest, math.inf
        self.farthest = min(FARTHEST * first, line.end)
        self.bracketed = False
        self.auxiliary = True
        self.widths = (math.inf, math.inf)

    @property
    def _end(self) -> float:
        return min(self.longest, self.farthest)

    def run(self) -> Found:
        trials = alike = 0
        while trials < TRIALS:
            trial = self.line.at(self.alpha)
            if not trial.finite:
                if trial.value == -math.inf:
                    return Found(Outcome.UNBOUNDED, trial)
                trials += 1
                self.wall = self.alpha
                self.alpha = self.best.alpha + SHRINK * (self.alpha - self.best.alpha)
                if self.alpha in (self.best.alpha, self.wall):
                    break
                continue
            if self.wolfe.accepts(self.line, trial):
                return Found(Outcome.WOLFE, trial)
            if not self.bracketed and self.alpha < self._end and self.line.lost(trial):
                self.alpha = min(_LONGER * self.alpha, self._end)
                continue
            if self.alpha >= self.longest and self.wolfe.decreased(self.line, trial) and trial.slope < 0:
                return Found(Outcome.IMPROVED, trial)
            if self.alpha >= self.farthest and not self.bracketed:
                return Found(Outcome.UNBOUNDED, trial)
            self._next(trial)
            trials += self.bracketed
            alike += self.bracketed and self.line.alike(trial)
            if self.bracketed and trials > PATIENT and self.alpha < self.line.finest:
                break
            if alike == ALIKE or self.alpha == trial.alpha or self.alpha == self.best.alpha:
                break
        if self.wall < math.inf and self.best.alpha == 0:
            return Found(Outcome.NOT_FINITE, self.line.start)
        return finish(self.line, self.best)

    def _next(self, trial: Point) -> None:
        """Take the trial into the interval and choose the next one."""
        tilt = self.wolfe.c1 * self.line.start.slope
        decreased = self.wolfe.decreased(self.line, trial)
        if self.auxiliary and decreased and trial.slope >= 0:
            self.auxiliary = False
        # As long as no point of the first condition has been passed, the function less its tilt is bracketed.
        tilted = self.auxiliary and not decreased and trial.value <= self.best.value
        alpha = self._interpolate(trial, tilt if tilted else 0.0)
        if self.bracketed:
            self.alpha = self._shrunk(alpha)
        else:
            ahead = self.alpha - self.best_before
            low, high = self.alpha + 1.1 * ahead, self.alpha + _LONGER * ahead
            high = min(high, self._end, (self.alpha + self.wall) / 2)
            self.alpha = min(max(alpha, low), high)

    def _interpolate(self, trial: Point, tilt: float) -> float:
        """The next trial by the four cases of section 4; the interval takes `trial` in."""
        best, t = self.best.side(tilt), trial.side(tilt)
        self.best_before = best.alpha
        if t.value > best.value:
            self.bracketed, self.other = True, trial
            cubic, quadratic = cubic_minimum(best, t), quadratic_minimum(best, t)
            if abs(cubic - best.alpha) < abs(quadratic - best.alpha):
                return cubic
            return cubic + (quadratic - cubic) / 2
        opposite = t.slope * best.slope < 0
        if opposite:
            alpha = _farther(t.alpha, cubic_minimum(best, t), secant(best, t))
            self.bracketed, self.other = True, self.best
        elif abs(t.slope) < abs(best.slope):
            alpha = self._flatter(best, t)
        elif self.bracketed:
            alpha = cubic_minimum(self.other.side(tilt), t)
        else:
            alpha = math.inf
        self.best = trial
        return alpha

    def _flatter(self, best: Side, t: Side) -> float:
        """The slope has the same sign and has become smaller: the minimum lies beyond."""
        ahead = t.alpha - best.alpha
        cubic, line = cubic_minimum(best, t), secant(best, t)
        if not (cubic - t.alpha) * ahead > 0:
            cubic = math.copysign(math.inf, ahead)
        if not self.bracketed:
            return _farther(t.alpha, cubic, line)
        alpha = cubic if abs(cubic - t.alpha) < abs(line - t.alpha) else line
        limit = t.alpha + _NARROW * (self.other.alpha - t.alpha)
        return min(alpha, limit) if ahead > 0 else max(alpha, limit)

    def _shrunk(self, alpha: float) -> float:
        """`alpha` within the interval, or its middle if the interval does not become narrow fast enough."""
        a, b = self.best.alpha, self.other.alpha
        width = abs(b - a)
        slow = width >= _NARROW * self.widths[0]
        self.widths = (self.widths[1], width)
        if slow or not min(a, b) < alpha < max(a, b):
            return a + (b - a) / 2
        return alpha


def _farther(origin: float, a: float, b: float) -> float:
    """Whichever of two trials is farther from `origin`; one that is nan is not."""
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return a if abs(a - origin) > abs(b - origin) else b
