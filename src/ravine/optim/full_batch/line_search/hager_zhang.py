"""The line search of Hager and Zhang (2005, SIAM Journal on Optimization 16, 170-192)."""

import math

from .common import FARTHEST, SHRINK, Found, Line, Outcome, Point, Wolfe, finish, quadratic_minimum, secant

TRIALS = 50
_GROWTH = 5.0
_NARROW = 0.66


def hager_zhang(line: Line, first: float, wolfe: Wolfe, longest: float = math.inf) -> Found:
    """A point that satisfies the Wolfe conditions, by secant steps on the slope.

    It looks at slopes rather than values, which keep their digits longer near a minimum.

    Args:
        line: the function along the direction; its slope at 0 is negative.
        first: the first trial, above 0.
        wolfe: the conditions.
        longest: no trial goes farther.

    Returns:
        As `more_thuente`.
    """
    search = _Search(line, wolfe, longest)
    try:
        search.run(min(first, longest, line.end))
    except _Ended as end:
        return end.found
    if search.best is line.start and search.wall < math.inf:
        return Found(Outcome.NOT_FINITE, line.start)
    return finish(line, search.best)


class _Ended(Exception):  # noqa: N818 - how a search ends, wherever it is
    def __init__(self, outcome: Outcome, point: Point) -> None:
        self.found = Found(outcome, point)


class _Search:
    """An interval [a, b] with a falling, not above the start; b rising. Names of steps are the paper's."""

    def __init__(self, line: Line, wolfe: Wolfe, longest: float) -> None:
        self.line, self.wolfe, self.longest = line, wolfe, longest
        self.best = line.start
        self.wall = math.inf
        self.trials = 0

    def run(self, first: float) -> None:
        interval = self._bracket(first)
        while interval is not None and self.trials < TRIALS:
            a, b = interval
            interval = self._secant_twice(a, b)
            if interval is not None and interval[1].alpha - interval[0].alpha > _NARROW * (b.alpha - a.alpha):
                a, b = interval
                interval = self._update(a, b, (a.alpha + b.alpha) / 2)

    def _at(self, alpha: float) -> Point:
        self.trials += 1
        point = self.line.at(alpha)
        if point.value == -math.inf:
            raise _Ended(Outcome.UNBOUNDED, point)
        if not point.finite:
            self.wall = min(self.wall, alpha)
        elif self.wolfe.accepts(self.line, point):
            raise _Ended(Outcome.WOLFE, point)
        elif point.value < self.best.value:
            self.best = point
        return point

    def _above(self, point: Point) -> bool:
        """Whether a point is too high to be the left end, however it falls."""
        return not point.finite or point.value > self.line.start.value + self.line.noise

    def _bracket(self, alpha: float) -> tuple[Point, Point] | None:
        low, farthest = self.line.start, min(FARTHEST * alpha, self.line.end)
        while True:
            point = self._at(alpha)
            if self._above(point):
                return self._lowered(low, point)
            if point.slope >= 0:
                return low, point
            if alpha >= self.longest:
                return None
            if alpha >= farthest:
                raise _Ended(Outcome.UNBOUNDED, point)
            low, alpha = point, min(_GROWTH * alpha, self.longest, farthest)

    def _lowered(self, a: Point, high: Point) -> tuple[Point, Point] | None:
        """U3: an interval between `a` and a point that is too high in which the slope turns; None if none."""
        fresh = True
        while self.trials < TRIALS:
            close = a.alpha + SHRINK * (high.alpha - a.alpha)
            alpha = (a.alpha + high.alpha) / 2 if high.finite else close
            guess = quadratic_minimum(a.side(), high.side())
            # The paper halves; but after a step too long by far, its value tells by how much.
            if fresh and a.alpha < guess < close:
                alpha = guess
            if not a.alpha < alpha < high.alpha:
                return None
            point = self._at(alpha)
            fresh = self._above(point)
            if fresh:
                high = point
            elif point.slope >= 0:
                return a, point
            else:
                a = point
        return None

    def _update(self, a: Point, b: Point, alpha: float) -> tuple[Point, Point] | None:
        if not a.alpha < alpha < b.alpha:
            return a, b
        point = self._at(alpha)
        if self._above(point):
            return self._lowered(a, point)
        return (a, point) if point.slope >= 0 else (point, b)

    def _secant_twice(self, a: Point, b: Point) -> tuple[Point, Point] | None:
        alpha = secant(a.side(), b.side())
        interval = self._update(a, b, alpha)
        if interval is None:
            return None
        low, high = interval
        if high.alpha == alpha:
            alpha = secant(b.side(), high.side())
        elif low.alpha == alpha:
            alpha = secant(a.side(), low.side())
        else:
            return interval
        return self._update(low, high, alpha)
