"""Every schedule by name: the shape of the learning rate after the warm-up, `step` counted from there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...errors import RecipeError
from ...registry import register
from .base import Schedule, check_fraction, check_positive
from .durations import Duration


def between(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine, `progress` from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


@register("schedule", "none", "the rate stays as it is", source="T8")
@dataclass(eq=False, repr=False, kw_only=True)
class Constant(Schedule):
    """factor = 1."""

    def shape(self, step: int) -> float:
        """1 everywhere."""
        return 1.0


@register("schedule", "step", "times gamma every so often, for example half every few epochs", source="T8")
@dataclass(eq=False, repr=False, kw_only=True)
class Step(Schedule):
    """factor = gamma^⌊n / every⌋ with n counted from the start of training. torch: `StepLR`.

    Attributes:
        every: how long each stair is.
        gamma: what the rate is multiplied by at each.
    """

    every: Duration = "20%"
    gamma: float = 0.5

    def settle(self) -> None:
        """`gamma` must be above 0."""
        check_positive("gamma", self.gamma)
        self.every_steps = max(1, self.steps(self.every))

    def shape(self, step: int) -> float:
        """A staircase."""
        return float(self.gamma ** ((step + self.warmup_steps) // self.every_steps))


@register("schedule", "multistep", "times gamma at each milestone", source="T8")
@dataclass(eq=False, repr=False, kw_only=True)
class MultiStep(Schedule):
    """factor = gamma^(milestones passed), counted from the start of training. torch: `MultiStepLR`.

    Attributes:
        milestones: when the rate drops.
        gamma: what it is multiplied by at each.
    """

    milestones: Sequence[Duration] = ("50%", "75%")
    gamma: float = 0.1

    def settle(self) -> None:
        """`gamma` must be above 0, milestones a list."""
        check_positive("gamma", self.gamma)
        if isinstance(self.milestones, str):
            raise RecipeError([f"schedule.milestones must be a list, as [{self.milestones!r}]"])
        self.milestone_steps = [self.steps(milestone) for milestone in self.milestones]

    def shape(self, step: int) -> float:
        """A staircase with the given steps."""
        passed = sum(milestone <= step + self.warmup_steps for milestone in self.milestone_steps)
        return float(self.gamma**passed)


@dataclass(eq=False, repr=False, kw_only=True)
class Decay(Schedule):
    """What both decays without an end have in common.

    Attributes:
        k: how fast the rate falls.
        every: the unit of time.
    """

    k: float = 0.1
    every: Duration = "1 epoch"

    def settle(self) -> None:
        """`k` must be above 0."""
        check_positive("k", self.k)
        self.every_steps = max(1, self.steps(self.every))


@register("schedule", "exponential", "α₀·e^(−kt), t counted in units of `every`", source="T8")
@dataclass(eq=False, repr=False, kw_only=True)
class Exponential(Decay):
    """factor = e^(−k·step/every). torch: `ExponentialLR` with gamma = e^(−k)."""

    def shape(self, step: int) -> float:
        """Exponential decay."""
        return math.exp(-self.k * step / self.every_steps)


@register("schedule", "1/t", "α₀/(1 + kt), t counted in units of `every`", source="T8")
@dataclass(eq=False, repr=False, kw_only=True)
class Inverse(Decay):
    """factor = 1/(1 + k·step/every)."""

    def shape(self, step: int) -> float:
        """Hyperbolic decay."""
        return 1 / (1 + self.k * step / self.every_steps)


@dataclass(eq=False, repr=False, kw_only=True)
class Descent(Schedule):
    """What schedules that end at a share of the rate have in common.

    Attributes:
        final: share of the rate that is left at the end.
    """

    final: float = 0.0

    def settle(self) -> None:
        """`final` must be in [0, 1]."""
        check_fraction("final", self.final)
        self.length_steps = self.length()


@register(
    "schedule",
    "cosine",
    "down to `final` along half a cosine",
    source="Loshchilov & Hutter, arXiv:1608.03983",
)
@dataclass(eq=False, repr=False, kw_only=True)
class Cosine(Descent):
    """factor = final + (1 − final)·(1 + cos(π·step/length))/2. torch: `CosineAnnealingLR`."""

    def shape(self, step: int) -> float:
        """Half a cosine, then `final`."""
        return between(1.0, self.final, min(1.0, step / self.length_steps))


@register("schedule", "linear", "down to `final` along a straight line")
@dataclass(eq=False, repr=False, kw_only=True)
class Linear(Descent):
    """factor = 1 − (1 − final)·step/length. torch: `LinearLR` from 1 to `final`."""

    def shape(self, step: int) -> float:
        """A straight line, then `final`."""
        return 1 - (1 - self.final) * min(1.0, step / self.length_steps)


@register("schedule", "polynomial", "down to `final` as (1 − t)^power")
@dataclass(eq=False, repr=False, kw_only=True)
class Polynomial(Schedule):
    """factor = final + (1 − final)·(1 − step/length)^power. torch: `PolynomialLR`, whose `final` is 0.

    Attributes:
        power: 1 is a straight line, more falls sooner.
        final: share of the rate that is left at the end.
    """

    power: float = 2.0
    final: float = 0.0

    def settle(self) -> None:
        """`power` must be above 0, `final` in [0, 1]."""
        check_positive("power", self.power)
        check_fraction("final", self.final)
        self.length_steps = self.length()

    def shape(self, step: int) -> float:
        """A power of what is left, then `final`."""
        left = 1 - min(1.0, step / self.length_steps)
        return float(self.final + (1 - self.final) * left**self.power)


@register(
    "schedule",
    "inverse_sqrt",
    "1/√t after the warm-up, with no end",
    source="Vaswani et al., arXiv:1706.03762, eq. 3",
)
@dataclass(eq=False, repr=False, kw_only=True)
class InverseSqrt(Schedule):
    """factor = 1/√(1 + step/timescale); with the default timescale, the warm-up, this is √(warmup/n).

    Attributes:
        timescale: how long it takes until the rate is 1/√2; by default as long as the warm-up.
    """

    timescale: Duration | None = None

    def settle(self) -> None:
        """Without a timescale the warm-up's length is taken, or one step."""
        timescale = self.warmup_steps if self.timescale is None else self.steps(self.timescale)
        self.timescale_steps = max(1, timescale)

    def shape(self, step: int) -> float:
        """Falls for ever, ever more slowly."""
        return 1 / math.sqrt(1 + step / self.timescale_steps)


@register(
    "schedule",
    "one_cycle",
    "up to the rate, then down far below where it began",
    source="Smith, arXiv:1708.07120",
)
@dataclass(eq=False, repr=False, kw_only=True)
class OneCycle(Schedule):
    """From `start` up to 1 in `rise`, then down to `final`. The optimizer's rate is the peak.

    torch: `OneCycleLR` with start = 1/div_factor and final = start/final_div_factor.

    Attributes:
        rise: how long the rate rises.
        start: share of the rate to begin with.
        final: share of the rate that is left at the end.
        anneal: "cosine" or "linear".
    """

    rise: Duration = "30%"
    start: float = 0.04
    final: float = 4e-6
    anneal: Literal["cosine", "linear"] = "cosine"

    def settle(self) -> None:
        """`start` and `final` must be in [0, 1], `rise` within the training."""
        check_fraction("start", self.start)
        check_fraction("final", self.final)
        if self.anneal not in ("cosine", "linear"):
            raise RecipeError([f"schedule.anneal must be 'cosine' or 'linear', not {self.anneal!r}"])
        self.last = self.length() - 1
        self.peak = max(0, self.steps(self.rise) - 1)
        if self.peak > self.last:
            raise RecipeError(
                [f"schedule.rise is longer than the {self.last + 1} steps there are: shorten it"]
            )

    def shape(self, step: int) -> float:
        """Up, down, then `final`."""
        if step < self.peak:
            return self._between(self.start, 1.0, step / self.peak)
        return self._between(1.0, self.final, min(1.0, (step - self.peak) / max(1, self.last - self.peak)))

    def _between(self, start: float, end: float, progress: float) -> float:
        if self.anneal == "cosine":
            return between(start, end, progress)
        return start + (end - start) * progress


@register(
    "schedule",
    "cosine_restarts",
    "half a cosine again and again, each `growth` times as long as the one before",
    source="Loshchilov & Hutter, arXiv:1608.03983",
)
@dataclass(eq=False, repr=False, kw_only=True)
class CosineRestarts(Schedule):
    """From 1 to `final` along half a cosine, again and again. torch: `CosineAnnealingWarmRestarts`.

    Attributes:
        period: how long the first fall takes.
        growth: each further one takes so many times as long, at least 1.
        final: share of the rate at the end of each.
    """

    period: Duration = "25%"
    growth: float = 1.0
    final: float = 0.0

    def settle(self) -> None:
        """`growth` must be at least 1, `final` in [0, 1]."""
        check_fraction("final", self.final)
        if self.growth < 1:
            raise RecipeError([f"schedule.growth must be at least 1, not {self.growth}"])
        self.period_steps = max(1, self.steps(self.period))

    def shape(self, step: int) -> float:
        """The place within the present period."""
        if self.growth == 1:
            return between(1.0, self.final, step % self.period_steps / self.period_steps)
        period = float(self.period_steps)
        left = float(step)
        while left >= period:
            left -= period
            period *= self.growth
        return between(1.0, self.final, left / period)


@register(
    "schedule",
    "fast_geometric",
    "down to `low` along half a cosine, then up to `high` and down again and again",
    source="Garipov et al. 2018, arXiv:1802.10026, section 4.2",
)
@dataclass(eq=False, repr=False, kw_only=True)
class FastGeometric(Schedule):
    """A training, then short cycles from one good solution to the next along straight lines.

    factor = low + (high − low)·(1 − |2x − 1|), x the share of the present cycle that is over: each begins and
    ends at `low`, where the weights are worth keeping.

    Attributes:
        start: when the cycles begin.
        period: how long each is.
        high: share of the rate in the middle of a cycle.
        low: share of the rate at its ends.
    """

    start: Duration = "50%"
    period: Duration = "1 epoch"
    high: float = 0.5
    low: float = 0.005

    def settle(self) -> None:
        """`high` and `low` must be in [0, 1]."""
        check_fraction("high", self.high)
        check_fraction("low", self.low)
        self.start_steps = self.steps(self.start)
        self.period_steps = max(1, self.steps(self.period))

    def shape(self, step: int) -> float:
        """Half a cosine, then the place within the present cycle."""
        if step < self.start_steps:
            return between(1.0, self.low, step / self.start_steps)
        over = (step - self.start_steps) % self.period_steps / self.period_steps
        return self.low + (self.high - self.low) * (1 - abs(2 * over - 1))
