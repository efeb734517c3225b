"""What LBFGS, BFGS and Newton share as `torch.optim.Optimizer`s: steps that evaluate a closure often."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..base import Number, Parameters
from ..optimizers.checks import check, check_lr
from .closure import Closure, live, objective_of
from .method import Iterate, Steps
from .objective import Objective
from .result import Reason
from .room import refuse_matrices
from .structure import PRECISIONS


@dataclass(frozen=True, slots=True)
class LastStep:
    """What the last call of `step` did.

    Attributes:
        loss: the closure's, without penalties, where the parameters are now.
        gradient_norm: the 2-norm of the gradient there, penalties included.
        iterations: taken.
        evaluations: of the closure.
        reason: why there were fewer than `max_iter` iterations; None if nothing speaks against going on.
    """

    loss: float
    gradient_norm: float
    iterations: int
    evaluations: int
    reason: Reason | None


class FullBatchOptimizer(Optimizer, ABC):
    """Base of the optimizers that minimize a closure, a function of the parameters and nothing else.

    Groups share all options but `weight_decay`, because the parameters are stepped as one vector. Frozen
    parameters stay where they are; thawing or freezing some begins the curvature anew.

    Attributes:
        last: what the last step did; None before the first.
    """

    full_batch: ClassVar[bool] = True
    """`step` needs a closure, which it evaluates several times."""
    redirects: ClassVar[bool] = True
    """No element is stepped by itself."""
    wants_graph: ClassVar[bool] = False
    """The closure returns the loss with its graph, and does not call backward."""
    learns: ClassVar[str] = ""
    """The tensor that a curvature it has learned consists of, if it learns one."""

    last: LastStep | None = None

    def __init__(
        self,
        params: Parameters,
        lr: Number,
        max_iter: int,
        max_eval: int | None,
        tolerance_grad: float,
        tolerance_change: float,
        weight_decay: float,
        allow_noise: bool,
        **others: Any,
    ) -> None:
        """Options as in torch's LBFGS; `others` are the subclass' own.

        Raises:
            ValueError: a value out of range; parameters of several devices or types.
        """
        check_lr(lr)
        if not isinstance(max_iter, int) or max_iter < 1:
            raise ValueError(f"Invalid max_iter: {max_iter}; it must be a whole number of at least 1")
        for name, value in (
            ("max_eval", 1 if max_eval is None else max_eval),
            ("tolerance_grad", tolerance_grad),
            ("tolerance_change", tolerance_change),
            ("weight_decay value", weight_decay),
        ):
            check(name, value)
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            **others,
            "weight_decay": weight_decay,
            "allow_noise": allow_noise,
        }
        super().__init__(params, defaults)

    @abstractmethod
    def _steps(self, objective: Objective, start: Iterate, lr: float) -> Steps:
        """The iterates after `start`; what was learned before is gone on with."""

    def _learned(self) -> dict[str, Any] | None:
        """What the next direction depends on besides the gradient, for the state; None if nothing does."""
        return None

    def _forget(self) -> None:
        """Drop what was learned, or what stands for it outside of the state."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, which may differ from the others in its `weight_decay`.

        Raises:
            ValueError: it differs in more; its parameters are not float32 or float64, or not of the type
                and on the device of the others.
        """
        super().add_param_group(param_group)
        try:
            self._options()
            for parameter in self.param_groups[-1]["params"]:
                self._check_kind(parameter)
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_kind(self, parameter: Tensor) -> None:
        first, name = self._first, type(self).__name__
        if parameter.dtype not in PRECISIONS:
            raise ValueError(f"{name} needs float32 or float64 parameters, not {parameter.dtype}")
        if parameter.dtype != first.dtype or parameter.device != first.device:
            raise ValueError(
                f"{name} steps all parameters as one vector, so they must be of one type and on one device: "
                f"{first.dtype} on {first.device} and {parameter.dtype} on {parameter.device}"
            )

    def _refuse_matrices(self, matrices: int) -> None:
        live_ones = self._live()
        count = sum(parameter.numel() for parameter in live_ones)
        refuse_matrices(type(self).__name__, count, self._first, matrices)

    @property
    def _first(self) -> Tensor:
        first: Tensor = next(parameter for group in self.param_groups for parameter in group["params"])
        return first

    @property
    def _shared(self) -> dict[str, Any]:
        """The state of all parameters, kept under the first as torch's LBFGS does."""
        shared: dict[str, Any] = self.state[self._first]
        return shared

    def _live(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in live(group["params"])]

    def _options(self) -> dict[str, Any]:
        first, *others = self.param_groups
        for group in others:
            for key in self.defaults:
                if key != "weight_decay" and group[key] != first[key]:
                    raise ValueError(
                        f"{type(self).__name__} steps all groups as one vector: they may differ in "
                        f"weight_decay, but not in {key} ({first[key]} and {group[key]})"
                    )
        return first

    def step(self, closure: Callable[[], Any]) -> Tensor:  # type: ignore[override]
        """Take up to `max_iter` iterations.

        However it ends, by an exception of the closure too, the parameters are at the last point that was
        accepted: finite, and with a line search no higher than where the step began.

        Args:
            closure: clears the gradients, works out the loss, calls backward and returns the loss. It must
                give the same for the same parameters, unless `allow_noise`.

        Returns:
            The value that the step began with: the loss, and the penalty where there is weight decay.

        Raises:
            ValueError: groups differ in more than weight decay, or every parameter is frozen.
            RuntimeError: the closure left no gradient, or a sparse one.
        """
        options, parameters = self._options(), self._live()
        if not parameters:
            raise ValueError(f"{type(self).__name__} has no parameter that requires a gradient")
        function = Closure(closure, self.param_groups, type(self).__name__)
        objective = objective_of(function, parameters, graph=self.wants_graph)
        self._match(objective.x0)
        before = self._shared.get("loss", math.nan)
        start = self._begin(objective, options)
        lr = float(options["lr"])
        current, reason = start, _converged(None, start, options)
        steps = self._steps(objective, start, lr)
        try:
            while reason is None and lr and self._may_go_on(current.nit - start.nit, objective, options):
                try:
                    found = next(steps)
                except StopIteration as end:
                    reason = end.value
                    break
                reason, current = _converged(current, found, options), found
        finally:
            objective.restore(current.x)
            self._keep(current, function.losses.get(current.value, before), objective.nfev + objective.nhev)
        self.last = LastStep(
            self._shared["loss"],
            float(torch.linalg.vector_norm(current.gradient)),
            current.nit - start.nit,
            objective.nfev + objective.nhev,
            reason,
        )
        if reason is Reason.NOT_FINITE:
            self._warn(start)
        return torch.tensor(start.value, dtype=current.x.dtype, device=current.x.device)

    def _may_go_on(self, iterations: int, objective: Objective, options: dict[str, Any]) -> bool:
        within = not iterations or objective.nfev < options["max_eval"]
        return bool(within and iterations < options["max_iter"])

    def _match(self, x: Tensor) -> None:
        """Begin anew where the state is of other parameters than are stepped now, or was cleared."""
        every = [parameter for group in self.param_groups for parameter in group["params"]]
        live_ones = [number for number, parameter in enumerate(every) if parameter.requires_grad]
        remembered = self._shared.get("x")
        if (
            remembered is None
            or remembered.shape != x.shape
            or self._shared.get("live", live_ones) != live_ones
        ):
            self._shared.clear()
            self._forget()
        self._shared["live"] = live_ones

    def _begin(self, objective: Objective, options: dict[str, Any]) -> Iterate:
        """The parameters with value and gradient: as the last step found them, if that holds still."""
        x, shared = objective.x0, self._shared
        nit = shared.get("n_iter", 0)
        if not options["allow_noise"] and "x" in shared and torch.equal(shared["x"], x):
            return Iterate(x, shared["value"], shared["gradient"], nit)
        if "x" in shared and not bool(torch.isfinite(x).all()):
            x = shared["x"]
        return Iterate(x, *objective.value_and_gradient(x), nit)

    def _keep(self, current: Iterate, loss: float, evaluations: int) -> None:
        finite = math.isfinite(current.value) and math.isfinite(current.largest())
        shared = self._shared
        shared["n_iter"] = current.nit
        shared["func_evals"] = shared.get("func_evals", 0) + evaluations
        shared["loss"] = loss
        if finite:
            shared |= {"x": current.x, "value": current.value, "gradient": current.gradient}

    def _warn(self, start: Iterate) -> None:
        told = "no step leads to a finite loss and gradient, however short"
        if not (math.isfinite(start.value) and math.isfinite(start.largest())):
            told = f"the loss ({start.value}) or its gradient is not finite where the step begins"
        told = f"{type(self).__name__}: {told}; the parameters are left at the last good ones"
        warnings.warn(told, RuntimeWarning, stacklevel=4)

    def state_dict(self) -> dict[str, Any]:
        """As in torch, with all that the next step depends on: a loaded one goes on bit for bit."""
        self._put_learned()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ValueError: it is of other parameters, or another optimizer's; nothing is changed then.
        """
        missing = sorted(self.defaults.keys() - state_dict["param_groups"][0].keys())
        if missing:
            raise ValueError(
                f"this is no state of {type(self).__name__}: its groups have no {', '.join(missing)}"
            )
        for shared in state_dict["state"].values():
            count, wanted = (
                shared["x"].numel() if "x" in shared else None,
                sum(p.numel() for p in self._live()),
            )
            if count not in (None, wanted):
                raise ValueError(
                    f"the state is of {count} numbers, but {type(self).__name__} steps {wanted} "
                    "(frozen ones do not count)"
                )
            if self.learns not in shared.get("curvature", {self.learns}):
                raise ValueError(f"this is no state of {type(self).__name__}, but of another optimizer")
        super().load_state_dict(state_dict)

    def _put_learned(self) -> None:
        learned = self._learned()
        if learned is not None and self.state:
            self._shared["curvature"] = learned

    def __getstate__(self) -> dict[str, Any]:
        self._put_learned()
        state: dict[str, Any] = super().__getstate__()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.last = None
        self._forget()


def _converged(previous: Iterate | None, current: Iterate, options: dict[str, Any]) -> Reason | None:
    """By torch's tolerances, which are absolute."""
    largest = current.largest()
    if not (math.isfinite(current.value) and math.isfinite(largest)):
        return Reason.NOT_FINITE
    if largest <= options["tolerance_grad"]:
        return Reason.GRADIENT
    if previous is None:
        return None
    tolerance = options["tolerance_change"]
    if float((current.x - previous.x).abs().max()) <= tolerance:
        return Reason.STEP
    return Reason.VALUE if abs(current.value - previous.value) < tolerance else None
