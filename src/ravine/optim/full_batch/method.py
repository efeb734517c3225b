"""What every full-batch method is: a walk over iterates that says, when it cannot go on, why."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .objective import Objective
from .result import Reason


@dataclass(frozen=True, slots=True)
class Iterate:
    """One point of the walk. Its tensors are never changed afterwards.

    Attributes:
        x: (n,).
        value: f(x).
        gradient: (n,).
        nit: the iterations that led here; 0 at the start.
        step: the length α of the last step, as a multiple of the direction (a trust region's: 1).
        residual: what is zero at a solution, where that is not the gradient (with bounds: the projected
            gradient, (n,)).
    """

    x: Tensor
    value: float
    gradient: Tensor
    nit: int = 0
    step: float = 0.0
    residual: Tensor | None = None

    def largest(self) -> float:
        """The largest absolute entry of what is zero at a solution."""
        measured = self.gradient if self.residual is None else self.residual
        return float(measured.abs().max()) if measured.numel() else 0.0


Steps = Generator[Iterate, None, Reason]
"""Yields an iterate after each iteration; returns a reason when the method itself cannot go on."""


class Method(Protocol):
    """A method: a dataclass whose fields are its options.

    `run` is given the evaluated start, whose value and gradient are finite, and walks for as long as it is
    asked to: tolerances and the budget of iterations are the caller's (`stopping.py`). It does not catch the
    `Budget` that the objective raises.
    """

    def run(self, objective: Objective, start: Iterate) -> Steps:
        """The iterates after `start`."""
        ...
