"""Gradient descent: the method that the others are measured by."""

from dataclasses import dataclass, field

import torch

from .descent import ending, first_scale, search
from .line_search import Outcome, Wolfe, more_thuente
from .method import Iterate, Steps
from .objective import Objective


@dataclass(frozen=True)
class GradientDescent:
    """Steps along minus the gradient.

    Attributes:
        lr: the learning rate, above 0, the same at every step, whatever it leads to. None: a line search
            chooses it anew for each step.
        wolfe: what the line search looks for.
    """

    lr: float | None = None
    wolfe: Wolfe = field(default_factory=Wolfe)

    def __post_init__(self) -> None:
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"Invalid lr: {self.lr}; it must be above 0")

    def run(self, objective: Objective, start: Iterate) -> Steps:
        """The iterates after `start`."""
        return (
            _searched(objective, start, self.wolfe) if self.lr is None else _plain(objective, start, self.lr)
        )


GROWTH = 100.0
"""How much longer the next step is tried at most."""


def _plain(objective: Objective, current: Iterate, lr: float) -> Steps:
    while True:
        x = torch.add(current.x, current.gradient, alpha=-lr)
        current = Iterate(x, *objective.value_and_gradient(x), current.nit + 1, lr)
        yield current


def _searched(objective: Objective, current: Iterate, wolfe: Wolfe) -> Steps:
    first = first_scale(current)
    while True:
        found = search(more_thuente, wolfe, objective, current, -current.gradient, first)
        if found.outcome not in (Outcome.WOLFE, Outcome.IMPROVED):
            return ending(found, current)
        point = found.point
        before = torch.dot(current.gradient, current.gradient).item()
        current = Iterate(point.x, point.value, point.gradient, current.nit + 1, point.alpha)
        yield current
        # First tried is the length that would gain as much as this step (Nocedal and Wright, section 3.5).
        after = torch.dot(current.gradient, current.gradient).item()
        # A step that has come close to where the slope vanishes would ask for one without end.
        first = point.alpha * (min(before / after, GROWTH) if after > 0 else 1.0)
