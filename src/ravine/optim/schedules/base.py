"""What every schedule shares: closed form, warm-up, durations, drawing."""

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...errors import RecipeError
from .durations import Duration, parse_duration


@dataclass(eq=False, repr=False)
class Schedule(LRScheduler, ABC):
    """A learning rate that follows a formula of the step: lr = factor(step) · initial lr.

    Stepped once after each step of the optimizer. The factor depends on the step's number alone, so a
    resumed run and a drawing are exact. A subclass is a dataclass of its settings, gives `shape`, and turns
    durations into steps in `settle`.

    Attributes:
        optimizer: any torch optimizer; the rates of its groups keep their proportions.
        warmup: the rate rises linearly for this long before the shape begins.
        total_steps: optimizer steps in the whole training; needed by schedules that end.
        steps_per_epoch: optimizer steps in an epoch; needed where a duration counts epochs.
        last_epoch: as in torch: the last step taken, −1 for none.

    Raises:
        RecipeError: a setting is out of range, or a duration is unclear or does not fit.
    """

    optimizer: Optimizer
    _: KW_ONLY
    warmup: Duration = 0
    total_steps: int | None = None
    steps_per_epoch: int | None = None
    last_epoch: int = -1

    def __post_init__(self) -> None:
        """Turn durations into steps, then start as torch's schedulers do."""
        for name, length in (("total_steps", self.total_steps), ("steps_per_epoch", self.steps_per_epoch)):
            if length is not None and length < 1:
                raise RecipeError([f"schedule: {name} must be at least 1, not {length}"])
        self.warmup_steps = self.steps(self.warmup)
        if self.total_steps is not None and self.warmup_steps > self.total_steps:
            raise RecipeError(
                [f"schedule.warmup takes {self.warmup_steps} steps of {self.total_steps} in all: shorten it"]
            )
        self.settle()
        super().__init__(self.optimizer, self.last_epoch)

    def settle(self) -> None:
        """Check the settings and turn durations into steps."""

    @abstractmethod
    def shape(self, step: int) -> float:
        """The factor `step` steps after the warm-up."""

    def factor(self, step: int) -> float:
        """The factor at a step, counted from 0: what the initial rates are multiplied by."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1) * self.shape(0)
        return self.shape(step - self.warmup_steps)

    def curve(self, steps: int) -> list[float]:
        """The factors of the first `steps` steps; the optimizer is not touched."""
        return [self.factor(step) for step in range(steps)]

    def steps(self, duration: Duration) -> int:
        """A duration in steps."""
        return parse_duration(duration, self.steps_per_epoch, self.total_steps)

    def length(self) -> int:
        """Steps from the end of the warm-up to the end of training, at least 1.

        Raises:
            RecipeError: how long the training is, is not known.
        """
        if self.total_steps is None:
            raise RecipeError([f"{type(self).__name__} must know how long the training is: give total_steps"])
        return max(1, self.total_steps - self.warmup_steps)

    def get_lr(self) -> list[Any]:
        """The rates for the step that comes next, in torch's sense."""
        factor = self.factor(self.last_epoch)
        return [rate * factor for rate in self.base_lrs]

    def _get_closed_form_lr(self) -> list[Any]:
        return self.get_lr()


def check_positive(name: str, value: float) -> None:
    """Refuse a setting that is not above 0."""
    if not value > 0:
        raise RecipeError([f"schedule.{name} must be above 0, not {value}"])


def check_fraction(name: str, value: float) -> None:
    """Refuse a setting outside [0, 1]."""
    if not 0 <= value <= 1:
        raise RecipeError([f"schedule.{name} must be between 0 and 1, not {value}"])
