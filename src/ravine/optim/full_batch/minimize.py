"""`minimize`: one call for every full-batch method."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import torch

from ...errors import nearest
from .bfgs import BFGS
from .bounds import Bounds, make_bounds
from .gradient_descent import GradientDescent
from .lbfgs import LBFGS
from .lbfgsb import LBFGSB
from .line_search import Wolfe
from .method import Iterate, Method
from .newton import Newton
from .newton_cg import NewtonCG
from .objective import Budget, Objective
from .result import Reason, Result
from .room import MATRICES, refuse_matrices
from .saddle_free import SaddleFreeNewton
from .stopping import Stopping
from .trust_exact import TrustExact

METHODS: dict[str, Callable[..., Method]] = {
    "lbfgs": LBFGS,
    "bfgs": BFGS,
    "newton": Newton,
    "newton-cg": NewtonCG,
    "trust-exact": TrustExact,
    "saddle-free-newton": SaddleFreeNewton,
    "gd": GradientDescent,
}

MAXFUN = 15_000


def minimize(
    f: Callable[..., Any],
    x0: Any,
    method: str = "lbfgs",
    *,
    jac: Callable[..., Any] | bool | None = None,
    bounds: Any = None,
    tol: float | None = None,
    callback: Callable[..., Any] | None = None,
    options: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Result:
    """A local minimum of a smooth scalar function, with gradients by autograd.

    What f raises, and an interrupt from the keyboard, passes through; a module's parameters are left at the
    best point by then, and a callback has seen every iterate.

    Args:
        f: of one tensor, where x0 is a tensor, an array, a number or a list of numbers; of several, where x0
            is a tuple of tensors; of a dict or a list of tensors, nested as x0 is; of nothing, where x0 is a
            module: then its parameters that require gradients are changed, and end at the best point.
        x0: the start. It is not changed, unless it is a module.
        method: "lbfgs" (the default; many variables), "bfgs" (up to some thousand), "newton", "trust-exact",
            "saddle-free-newton" (exact Hessians, up to some thousand), "newton-cg" (products with the
            Hessian), or "gd".
        jac: the gradient: None by autograd; a function with the arguments of f that returns it in the
            structure of x0; True if f returns (value, gradient).
        bounds: with "lbfgs", which then is L-BFGS-B: a sequence of a pair (low, high) for each element of x,
            or one pair for all of x, each of it a number or a structure of tensors like x0. None is no bound.
            An x0 outside of them is moved to the nearest point within.
        tol: short for the option `gtol`.
        callback: called after each iteration, with a `Result` as keyword `intermediate_result` if its
            parameter is called so, else with x; it raises StopIteration to stop.
        options: of the stopping rules: `gtol`, `grtol`, `xtol`, `ftol`, `maxiter` (see `Stopping`); `maxfun`,
            the most evaluations (15000); `return_path`, whether the result has the path; and those of the
            method (its class' fields; `c1` and `c2` for its line search).
        dtype: of x. None: float64 on the CPU, else as in x0; a module keeps its own.

    Raises:
        ValueError: an unknown method or option, or a value out of range; bounds that cross, or for a method
            that has none; x0 without parameters, or complex; a dtype that is neither float32 nor float64;
            f that returns no scalar, or one that autograd cannot follow to x.
        MemoryLimitError: the method keeps matrices for which there is no room.
    """
    chosen = {"gtol": tol, **(options or {})}
    maxfun = chosen.pop("maxfun", MAXFUN)
    if not isinstance(maxfun, int | None) or (maxfun is not None and maxfun < 0):
        raise ValueError(f"Invalid maxfun: {maxfun!r}; it must be a whole number of evaluations, or None")
    keep_path = chosen.pop("return_path", False)
    rules = [field.name for field in fields(Stopping) if field.name in chosen]
    stopping = Stopping(**{name: chosen.pop(name) for name in rules})
    objective = Objective(f, x0, jac=jac, dtype=dtype, max_evaluations=maxfun)
    if method in MATRICES:
        refuse_matrices(f"the method {method!r}", objective.n, objective.x0, MATRICES[method])
    limits = None if bounds is None else make_bounds(bounds, objective.x0, objective.structure.flatten)
    walker = _method(method, chosen, limits)
    run = _Run(objective, stopping, callback, keep_path, limits)
    try:
        run.go(walker)
    finally:
        run.settle()
    return run.result()


def _method(name: str, options: dict[str, Any], bounds: Bounds | None) -> Method:
    if name not in METHODS:
        raise ValueError(f"Invalid method: {name!r}{nearest(str(name), METHODS)}")
    made = METHODS[name]
    if bounds is not None:
        if name != "lbfgs":
            raise ValueError(f"the method {name!r} takes no bounds: use 'lbfgs'")
        made = partial(LBFGSB, bounds)
    valid = [parameter for parameter in inspect.signature(made).parameters if parameter != "wolfe"]
    conditions = {}
    if len(valid) < len(inspect.signature(made).parameters):
        conditions = {key: options.pop(key) for key in ("c1", "c2") if key in options}
        valid += ["c1", "c2"]
    for option in options:
        if option not in valid:
            every = [*valid, *(field.name for field in fields(Stopping)), "maxfun", "return_path"]
            raise ValueError(f"the method {name!r} has no option {option!r}{nearest(option, every)}")
    return made(**options, **({"wolfe": Wolfe(**conditions)} if conditions else {}))


class _Run:
    """One minimization under way."""

    def __init__(
        self,
        objective: Objective,
        stopping: Stopping,
        callback: Callable[..., Any] | None,
        keep_path: bool,
        bounds: Bounds | None,
    ) -> None:
        self.objective, self.stopping, self.callback = objective, stopping, callback
        self.bounds = bounds
        self.start = objective.x0 if bounds is None else bounds.clip(objective.x0)
        self.moved = bounds is not None and not torch.equal(self.start, objective.x0)
        self.path: list[Iterate] | None = [] if keep_path else None
        self.current: Iterate | None = None
        self.reason: Reason | None = None

    def go(self, method: Method) -> None:
        """From x0 until there is a reason to stop."""
        try:
            x = self.start
            value, gradient = self.objective.value_and_gradient(x)
            residual = None if self.bounds is None else self.bounds.residual(x, gradient)
            start = Iterate(x, value, gradient, residual=residual)
            self.reason = self._arrive(start)
            if self.reason is None:
                self.reason = self._walk(method, start)
        except Budget:
            self.reason = Reason.EVALUATIONS

    def _walk(self, method: Method, start: Iterate) -> Reason:
        steps, current = method.run(self.objective, start), start
        while True:
            try:
                current = next(steps)
            except StopIteration as end:
                return self.stopping.ending(end.value, current)
            reason_to_stop = self._arrive(current)
            if reason_to_stop is not None:
                return reason_to_stop

    def _arrive(self, iterate: Iterate) -> Reason | None:
        previous, self.current = self.current, iterate
        if self.path is not None:
            self.path.append(iterate)
        reason = self.stopping.reason(previous, iterate)
        if (
            self.callback is not None
            and previous is not None
            and not _told(self.callback, self._result(iterate))
        ):
            return reason or Reason.CALLBACK
        return reason

    def settle(self) -> None:
        """Leave a module at the best point, however the run ended."""
        best = self._best()
        self.objective.restore(self.start if best is None else best.x)

    def _best(self) -> Iterate | None:
        """Where it converged, or, if it did not, the lowest point that was evaluated."""
        current, lowest = self.current, self.objective.best
        converged = self.reason is not None and (self.reason.success or self.reason is Reason.CALLBACK)
        if lowest is None or current is None or converged or current.value <= lowest[1]:
            return current
        return Iterate(*lowest, nit=current.nit)

    def result(self) -> Result:
        """What was found."""
        best = self._best()
        if best is None:
            # Not even one evaluation was allowed.
            best = Iterate(self.start, math.nan, torch.full_like(self.start, math.nan))
        return self._result(best)

    def _result(self, iterate: Iterate) -> Result:
        objective = self.objective
        # Copies, because what a caller does to them must not reach the method's own vectors.
        return Result(
            x=objective.unflatten(iterate.x.clone()),
            fun=iterate.value,
            jac=objective.unflatten(iterate.gradient.clone()),
            nfev=objective.nfev,
            njev=objective.njev,
            nhev=objective.nhev,
            nit=iterate.nit,
            reason=self.reason,
            note="x0 was outside the bounds and was moved to them" if self.moved else "",
            path=self.path,
        )


def _parameters(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Those of a function; of a built-in one that does not tell, none."""
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return {}


def _told(callback: Callable[..., Any], result: Result) -> bool:
    """Call it as SciPy does; False where it asks to stop."""
    try:
        if "intermediate_result" in _parameters(callback):
            callback(intermediate_result=result)
        else:
            callback(result.x)
    except StopIteration:
        return False
    return True
