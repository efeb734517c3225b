"""Every full-batch minimizer under one call, and what each of its evaluations found and when."""

import contextlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from scipy import optimize
from torch import Tensor

from ravine.optim.full_batch.minimize import minimize

Function = Callable[[Tensor], Tensor]
# Past it nobody is waited for.
MOST_EVALUATIONS = 5000


class EnoughError(Exception):
    """Nobody needs another evaluation."""


class Noted:
    """A function of one tensor that notes every evaluation.

    Attributes:
        values: of the evaluations so far.
        seconds: since it was made, at the end of each.
        last: the point of the latest evaluation.
    """

    def __init__(self, plain: Function, most: int = MOST_EVALUATIONS, goal: float = -float("inf")) -> None:
        """Raises EnoughError instead of evaluation number `most` + 1, or once a value is at most `goal`."""
        self._plain = plain
        self.values: list[float] = []
        self.seconds: list[float] = []
        self._most, self._goal = most, goal
        self._started = time.perf_counter()

    def __call__(self, x: Tensor) -> Tensor:
        """The value at `x`."""
        if len(self.values) >= self._most:
            raise EnoughError
        value = self._plain(x)
        self.last = x.detach()
        self.values.append(value.item())
        self.seconds.append(time.perf_counter() - self._started)
        if self.values[-1] <= self._goal:
            raise EnoughError
        return value

    def first(self, goal: float) -> int | None:
        """How many evaluations it took to a value of at most `goal`; None if there is none."""
        return next((count for count, value in enumerate(self.values, 1) if value <= goal), None)


Minimizer = Callable[[Noted, Tensor, float], object]
"""Minimizes a noted function from a start, until the gradient's largest entry is at most the number."""


def ravine(method: str, **options: Any) -> Minimizer:
    """`ravine.optim.full_batch.minimize`."""

    def run(function: Noted, x0: Tensor, gtol: float) -> object:
        return minimize(function, x0, method=method, options={"gtol": gtol, **options}, dtype=x0.dtype)

    return run


def scipy(method: str, hessian: bool = False, **options: Any) -> Minimizer:
    """`scipy.optimize.minimize`; values and gradients by torch, at x in the dtype of the start."""

    def run(function: Noted, x0: Tensor, gtol: float) -> object:
        def both(x: Any) -> tuple[float, Any]:
            point = torch.tensor(x, dtype=x0.dtype, requires_grad=True)
            value = function(point)
            return value.item(), torch.autograd.grad(value, point)[0].double().numpy()

        extra = {"hess": lambda x: exact_hessian(function, x0.new_tensor(x))} if hessian else {}
        limits = {"gtol": gtol} if method != "Newton-CG" else {"xtol": 1e-12}
        with warnings.catch_warnings():
            # Overflow at trial points, which it recovers from.
            warnings.simplefilter("ignore", RuntimeWarning)
            return optimize.minimize(
                both,
                x0.numpy(),
                jac=True,
                method=method,
                options={**limits, "maxiter": 10**6, **options},
                **extra,
            )

    return run


def exact_hessian(function: Noted, x: Tensor) -> Any:
    """By differentiating the gradient, one evaluation noted, as Ravine's own."""
    point = x.requires_grad_()
    gradient = torch.autograd.grad(function(point), point, create_graph=True)[0]
    rows = [torch.autograd.grad(entry, point, retain_graph=True)[0] for entry in gradient]
    return torch.stack(rows).numpy()


def torch_lbfgs(function: Noted, x0: Tensor, gtol: float) -> None:
    """`torch.optim.LBFGS` with its strong-Wolfe line search and a history of 10."""
    x = x0.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=10**6,
        max_eval=10**6,
        tolerance_grad=gtol,
        tolerance_change=0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = function(x)
        value.backward()
        return value.item()

    optimizer.step(closure)


FIRST_ORDER: dict[str, Minimizer] = {
    "ravine lbfgs": ravine("lbfgs"),
    "ravine bfgs": ravine("bfgs"),
    "scipy L-BFGS-B": scipy("L-BFGS-B", maxcor=10, ftol=0, maxfun=10**6),
    "scipy BFGS": scipy("BFGS"),
    "torch LBFGS": torch_lbfgs,
}
SECOND_ORDER: dict[str, Minimizer] = {
    "ravine newton": ravine("newton"),
    "ravine newton-cg": ravine("newton-cg"),
    "ravine trust-exact": ravine("trust-exact"),
    "scipy Newton-CG": scipy("Newton-CG", hessian=True),
    "scipy trust-exact": scipy("trust-exact", hessian=True),
}


def run(minimizer: Minimizer, function: Noted, x0: Tensor, gtol: float) -> Noted:
    """Minimize until it stops, or until nobody needs more; returns `function` with its notes."""
    with contextlib.suppress(EnoughError):
        minimizer(function, x0, gtol)
    return function
