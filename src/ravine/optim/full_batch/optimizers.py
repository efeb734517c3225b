"""L-BFGS, BFGS and Newton as `torch.optim.Optimizer`s with a closure."""

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal

from torch import Tensor

from ...registry import register
from ..base import Number, Parameters
from .bfgs import InverseHessian
from .descent import first_scale
from .history import History
from .line_search import Found, Line, LineSearch, Outcome, Wolfe, more_thuente
from .line_search.common import SHRINK
from .method import Iterate, Steps
from .newton import propose
from .newton_descent import walk_along
from .objective import Objective
from .optimizer import FullBatchOptimizer
from .quasi_newton import walk
from .room import MATRICES

LineSearchFn = Literal["strong_wolfe"]
FIXED_TRIALS = 20
# In recipes: an iteration a step, each evaluated once; the loop's loss is a function of the parameters.
SUGGESTED = {"max_iter": 1, "allow_noise": False}


class QuasiNewton(FullBatchOptimizer):
    """What LBFGS and BFGS share: a curvature that is learned from step to step."""

    _curvature: History | InverseHessian | None = None

    @abstractmethod
    def _new(self, x: Tensor, gamma: float) -> History | InverseHessian:
        """A curvature that has learned nothing yet, for vectors like `x`."""

    def _steps(self, objective: Objective, start: Iterate, lr: float) -> Steps:
        search = scaled(more_thuente, lr)
        gamma = first_scale(start)
        if self._options()["line_search_fn"] is None:
            search = scaled(fixed, lr)
            gamma = min(1.0, 1.0 / max(float(start.gradient.abs().sum()), 1e-300))  # torch's first step
        if self._curvature is None or not self._fits(self._curvature):
            self._curvature = self._new(start.x, gamma)
            if "curvature" in self._shared:
                self._curvature.load_state_dict(self._shared.pop("curvature"))
        return walk(objective, start, self._curvature, search, Wolfe())

    def _fits(self, curvature: History | InverseHessian) -> bool:
        """Whether it is as the group's options ask now; if not, learning begins anew."""
        return True

    def _learned(self) -> dict[str, Any] | None:
        return None if self._curvature is None else self._curvature.state_dict()

    def _forget(self) -> None:
        self._curvature = None


@register(
    "optimizer",
    "lbfgs",
    "L-BFGS: full batches, curvature from the last steps, no matrix",
    source="T12; Nocedal 1980; Liu & Nocedal 1989",
    suggested={**SUGGESTED, "history_size": 10},
)
class LBFGS(QuasiNewton):
    """L-BFGS (T12) with the arguments of `torch.optim.LBFGS`, by default with a line search.

    The loss must be a function of the parameters: no mini-batches, no dropout (C23). Groups may differ in
    `weight_decay` alone. Memory: `2·history_size` vectors of all parameters.

    Args:
        params: parameters, named parameters or groups; float32 or float64, on one device.
        lr: the first length that the line search tries, as a multiple of the direction; without a line
            search every step has it. 0 takes no step.
        max_iter: iterations a step, at least 1.
        max_eval: no further iteration in a step after so many evaluations; None: 1.25·max_iter.
        tolerance_grad: a step ends where the gradient's largest entry is at most this.
        tolerance_change: it ends where no parameter, or the value, changed by more than this.
        history_size: pairs (s, y) that are kept.
        line_search_fn: "strong_wolfe"; None takes steps of length `lr`, shorter only where the loss would
            not be finite. (torch's default is None, with which a single long step can end a training.)
        weight_decay: ½·weight_decay·‖x‖² is added to the closure's loss; may differ by group.
        allow_noise: the closure may give another loss for the same parameters, such as another batch's: it
            is evaluated anew when a step begins. False saves that: what the last step found holds.

    Raises:
        ValueError: a value out of range; parameters of several devices or types.
    """

    learns: ClassVar[str] = "steps"

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: LineSearchFn | None = "strong_wolfe",
        *,
        weight_decay: float = 0.0,
        allow_noise: bool = True,
    ) -> None:
        check_line_search(line_search_fn)
        if history_size < 1:
            raise ValueError(f"Invalid history_size: {history_size}; it must be at least 1")
        super().__init__(
            params,
            lr,
            max_iter,
            max_eval,
            tolerance_grad,
            tolerance_change,
            weight_decay,
            allow_noise,
            history_size=history_size,
            line_search_fn=line_search_fn,
        )

    def _new(self, x: Tensor, gamma: float) -> History:
        return History(self._options()["history_size"], x, gamma)

    def _fits(self, curvature: History | InverseHessian) -> bool:
        return isinstance(curvature, History) and curvature.memory == self._options()["history_size"]


@register(
    "optimizer",
    "bfgs",
    "BFGS: full batches, the inverse Hessian from rank-two updates, n² numbers",
    source="T11; Broyden, Fletcher, Goldfarb, Shanno 1970",
    suggested=SUGGESTED,
)
class BFGS(QuasiNewton):
    """BFGS (T11): an inverse Hessian of n² numbers, learned by updates of O(n²); up to some thousand weights.

    The loss must be a function of the parameters: no mini-batches, no dropout (C23). Groups may differ in
    `weight_decay` alone.

    Args:
        params: parameters, named parameters or groups; float32 or float64, on one device.
        lr: the first length that the line search tries, as a multiple of the direction; without a line
            search every step has it. 0 takes no step.
        max_iter: iterations a step, at least 1.
        max_eval: no further iteration in a step after so many evaluations; None: 1.25·max_iter.
        tolerance_grad: a step ends where the gradient's largest entry is at most this.
        tolerance_change: it ends where no parameter, or the value, changed by more than this.
        line_search_fn: as in `LBFGS`.
        weight_decay: ½·weight_decay·‖x‖² is added to the closure's loss; may differ by group.
        allow_noise: as in `LBFGS`.

    Raises:
        ValueError: a value out of range; parameters of several devices or types.
        MemoryLimitError: the matrix would take more than half of the free memory.
    """

    learns: ClassVar[str] = "matrix"

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        line_search_fn: LineSearchFn | None = "strong_wolfe",
        *,
        weight_decay: float = 0.0,
        allow_noise: bool = True,
    ) -> None:
        check_line_search(line_search_fn)
        super().__init__(
            params,
            lr,
            max_iter,
            max_eval,
            tolerance_grad,
            tolerance_change,
            weight_decay,
            allow_noise,
            line_search_fn=line_search_fn,
        )
        self._refuse_matrices(MATRICES["bfgs"])

    def _new(self, x: Tensor, gamma: float) -> InverseHessian:
        return InverseHessian(x, gamma)


@register(
    "optimizer",
    "newton",
    "Newton: full batches, the exact Hessian, damped where it is not positive definite",
    source="T10; Levenberg 1944",
    suggested=SUGGESTED,
)
class Newton(FullBatchOptimizer):
    """Newton's method (T10) with the exact Hessian: up to about a thousand parameters.

    Where the Hessian is not positive definite it is damped until it is, and a line search finds the length
    of each step: x ← x − α·(H + λ·I)⁻¹·∇f(x). The closure returns the loss with its graph and does **not**
    call backward, because the second derivatives are taken of it:

        def closure():
            return loss_of(model(inputs), targets)

        optimizer.step(closure)

    Args:
        params: parameters, named parameters or groups; float32 or float64, on one device.
        lr: the first length that the line search tries; 1 is Newton's own step. 0 takes no step.
        max_iter: iterations a step, at least 1.
        max_eval: no further iteration in a step after so many evaluations; None: 1.25·max_iter.
        tolerance_grad: a step ends where the gradient's largest entry is at most this.
        tolerance_change: it ends where no parameter, or the value, changed by more than this.
        weight_decay: ½·weight_decay·‖x‖² is added to the closure's loss; may differ by group.
        allow_noise: as in `LBFGS`.

    Raises:
        ValueError: a value out of range; parameters of several devices or types.
        MemoryLimitError: the matrices would take more than half of the free memory.
    """

    wants_graph: ClassVar[bool] = True

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        *,
        weight_decay: float = 0.0,
        allow_noise: bool = True,
    ) -> None:
        super().__init__(
            params, lr, max_iter, max_eval, tolerance_grad, tolerance_change, weight_decay, allow_noise
        )
        self._refuse_matrices(MATRICES["newton"])

    def _steps(self, objective: Objective, start: Iterate, lr: float) -> Steps:
        return walk_along(objective, start, Wolfe(), propose, scaled(more_thuente, lr))


def check_line_search(name: str | None) -> None:
    """Refuse any but "strong_wolfe" and None."""
    if name not in ("strong_wolfe", None):
        raise ValueError(f"Invalid line_search_fn: {name!r}; valid are 'strong_wolfe' and None")


def scaled(how: LineSearch, lr: float) -> LineSearch:
    """A line search whose first trial is `lr` times as long."""

    def search(line: Line, first: float, wolfe: Wolfe, longest: float = math.inf) -> Found:
        return how(line, first * lr, wolfe, longest)

    return search


def fixed(line: Line, first: float, wolfe: Wolfe, longest: float = math.inf) -> Found:
    """The first length wherever it leads; a shorter one only where the function is not finite."""
    alpha = min(first, longest)
    for _ in range(FIXED_TRIALS):
        point = line.at(alpha)
        if point.finite:
            return Found(Outcome.WOLFE, point)
        alpha *= SHRINK
    return Found(Outcome.NOT_FINITE, line.start)
