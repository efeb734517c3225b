"""How a minimization ended, and what it found."""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .method import Iterate


class Reason(Enum):
    """Why a minimization stopped. The value is (status, success, message)."""

    GRADIENT = (0, True, "converged: the gradient's largest entry is within its tolerance")
    STEP = (1, True, "converged: the last step was within its tolerance")
    VALUE = (2, True, "converged: the last change of the value was within its tolerance")
    PRECISION = (3, True, "converged: what is left to gain is below the rounding of the value")
    ITERATIONS = (4, False, "stopped: the budget of iterations is used up")
    EVALUATIONS = (5, False, "stopped: the budget of evaluations is used up")
    LINE_SEARCH = (6, False, "stopped: the line search could not improve the value")
    NOT_FINITE = (7, False, "stopped: the value, the gradient or the Hessian is not finite")
    UNBOUNDED = (8, False, "stopped: the function seems to be unbounded below")
    CALLBACK = (9, False, "stopped: the callback asked for it")
    SINGULAR = (10, False, "stopped: the Hessian is singular, so plain Newton has no step")

    @property
    def status(self) -> int:
        """A number for each reason; 0 to 3 are success."""
        return self.value[0]

    @property
    def success(self) -> bool:
        """Whether this is a minimum by one of the tolerances."""
        return self.value[1]

    @property
    def message(self) -> str:
        """The reason as a sentence."""
        return self.value[2]


@dataclass
class Result:
    """What `minimize` returns, in SciPy's terms; its callback gets one too, after each iteration.

    Attributes:
        x: the best point, in the structure of x0 (of a module: a dict of its parameters by name).
        fun: the value there.
        jac: the gradient there, in the structure of x.
        nfev: how many times the value was computed.
        njev: how many times the gradient was.
        nhev: how many Hessians, or products of the Hessian with a vector, were.
        nit: iterations.
        reason: why it stopped; None while it runs.
        note: what else there is to say, part of the message.
        path: every iterate from x0 on, each with a flat x, where it was asked for.
    """

    x: Any
    fun: float
    jac: Any
    nfev: int
    njev: int
    nhev: int
    nit: int
    reason: Reason | None = None
    note: str = ""
    path: "list[Iterate] | None" = None

    @property
    def success(self) -> bool:
        """Whether it stopped by one of the tolerances."""
        return self.reason is not None and self.reason.success

    @property
    def status(self) -> int:
        """The reason as a number; -1 while it runs."""
        return -1 if self.reason is None else self.reason.status

    @property
    def message(self) -> str:
        """The reason as a sentence."""
        reason = "running" if self.reason is None else self.reason.message
        return f"{reason} ({self.note})" if self.note else reason
