"""A `torch.optim.Optimizer` whose `step` runs a rule."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, ClassVar, Unpack, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

from .cohort import Cohort
from .kernels import eager, rounding
from .kernels.eager import Storage, Update
from .kernels.surroundings import Surroundings, prepared
from .options import (
    Group,
    Options,
    as_number,
    check_group,
    check_options,
    has,
    let_members_be_scheduled,
    members_of,
    number,
)
from .plan import Columns, LiveGroups, Plan, live_of, resolved, squares_of
from .planning import complete_counters, complete_state, make_plan
from .rule import Rule
from .sharding import own_parts

__all__ = ["Group", "Number", "Parameters", "RuleOptimizer", "as_number", "number"]

Number = float | Tensor
Parameters = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class RuleOptimizer(Optimizer, ABC):
    """Base of the optimizers: state, counters, engines, what is composed around a rule, checkpoints.

    A subclass gives the rule and its hyperparameters by group. Each parameter has its own step count,
    `state[p]["step"]`, unless `counters` is empty.

    Attributes:
        gradient_norm: of the gradients of all parameters together in the last step, before clipping:
            a float, or a tensor on the parameters' device, one value a member where hyperparameters
            are vectors. None without `clip_norm`.
    """

    counters: ClassVar[tuple[str, ...]] = ("step",)
    """The state's keys that hold a number of the whole parameter, the step count first."""

    def __init__(self, params: Parameters, defaults: dict[str, Any], **options: Unpack[Options]) -> None:
        """`params` and `defaults` as in torch.

        Raises:
            ValueError: an option out of range.
            RuntimeError: options that exclude each other.
        """
        chosen = check_options(defaults, options)
        self.engine = chosen.pop("engine")
        self.clip_norm = chosen.pop("clip_norm")
        self.rounding = chosen.pop("rounding")
        self.gradient_norm: Any = None
        self._plan: Plan | None = None
        self._loading: dict[str, Any] | None = None
        self._is_averaged = False
        super().__init__(params, {**defaults, **chosen})

    # What a subclass says about itself.

    @abstractmethod
    def rule(self, group: Group) -> Rule:
        """The rule that a group's options ask for."""

    @abstractmethod
    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The rule's hyperparameters at step `t` and at the other counters' values, `lr` first."""

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """The weight decay around the rule; `first`: no state was there before this step."""
        return Surroundings(group.get("maximize", False), decay=number(group, "weight_decay"))

    def initial_state(self, parameter: Tensor, group: Group, key: str) -> Tensor:
        """A parameter's state before its first step: zeros, in float32 at least."""
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        return torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format)

    def initial_counter(self, group: Group, key: str) -> float:
        """A counter before the first step."""
        return 0.0

    def advance(self, group: Group, *counters: Any) -> Sequence[Any]:
        """The counters' values in the next step."""
        return [counters[0] + 1] if counters else []

    def time(self, group: Group, t: Any) -> Any:
        """The step count that the rule sees at step `t`."""
        return t

    def directions(self, group: Group, live: Sequence[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """What the rule sees in place of the gradients of a group; only if `redirects`.

        The gradients come clipped, penalized and with the sign of `maximize`, and must not be changed.
        """
        return gradients

    redirects: ClassVar[bool] = False
    """Whether `directions` is to be asked."""

    def check_sparse(self, group: Group) -> None:
        """Refuse sparse gradients before anything is changed, where they have no meaning."""
        raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")

    def step_sparse(self, update: Update, x: Tensor, dx: Tensor, rest: list[Tensor]) -> None:
        """Take a sparse gradient: only the named rows have one, and only they move."""
        eager.step_rows(update, x, dx, rest)

    # One step.

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient. Gradients are never changed.

        Args:
            closure: reevaluates the model and returns the loss, which is returned.

        Raises:
            RuntimeError: a gradient is sparse and the method has no meaning for that; the engine asked
                for cannot take a parameter; the parameters are averaged at present.
        """
        if RuleOptimizer._untraced is None:  # not made before: it imports what takes a second
            RuleOptimizer._untraced = torch.compiler.disable(RuleOptimizer._step_perhaps_observed)
        loss: float | None = RuleOptimizer._untraced(self, closure)
        return loss

    _untraced: ClassVar[Any] = None
    """The step, closed to torch.compile: it would find nothing to compile, and take long to find it."""

    # torch wraps `step` with its hooks and its profiler record, some 8 µs a step, unless told it did.
    step.hooked = True  # type: ignore[attr-defined]

    def _step_perhaps_observed(self, closure: Callable[[], float] | None) -> float | None:
        if not self._observed():
            return self._step(closure)
        return self._step_observed() if closure is None else self._step_observed(closure)

    def _observed(self) -> bool:
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or torch.autograd.profiler._is_profiler_enabled
        )

    def _step(self, closure: Callable[[], float] | None = None) -> float | None:
        self.refuse_while_averaged("step()")
        if "capturable" in self.defaults and torch.cuda.is_initialized():
            self._accelerator_graph_capture_health_check()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            self._step_all()
        return loss

    _step_observed = Optimizer.profile_hook_step(_step)

    def _step_all(self) -> None:
        groups = [live_of(group["params"]) for group in self.param_groups]
        parameters = list(chain.from_iterable(live for live, _ in groups))
        if not parameters:
            return
        gradients = resolved(list(chain.from_iterable(own for _, own in groups)))
        if self.redirects:
            gradients = self._redirected(groups, gradients)
        plan = self._plan
        if plan is None or not plan.holds(groups, parameters, gradients, self.state):
            plan = make_plan(self, groups, gradients)
        updates = self._updates(plan, gradients)
        if updates is None:  # a number has become zero or ceased to be, or a step count was changed
            plan = make_plan(self, groups, gradients)
            updates = self._updates(plan, gradients)
            assert updates is not None
        for cohort, update in zip(plan.cohorts, updates, strict=True):
            cohort.set(update.counters)
        plan.run(updates)
        for number_, place in plan.alone:
            self._step_alone(plan.cohorts[number_], updates[number_], plan.columns[place], gradients[place])
        self._plan = None if any(cohort.first or cohort.fresh for cohort in plan.cohorts) else plan

    def _updates(self, plan: Plan, gradients: list[Tensor]) -> list[Update] | None:
        plan.point(gradients)
        scale = None if self.redirects else self._clip(plan, gradients)
        return plan.updates(self.next_update, scale)

    def next_update(self, cohort: Cohort, counters: Sequence[Any], scale: Any) -> Update:
        """A cohort's next step."""
        group = self.param_groups[cohort.group]
        after = self.advance(group, *counters)
        t, *others = after or [0.0]
        values = self.hyperparameters(group, t, *others)
        around = self._around(group, values[0], scale, first=cohort.first, fresh=cohort.fresh)
        if self.redirects:
            around = around.without_gradient_part()
        return Update(self.rule(group), around, self.time(group, t), values, after)

    def _around(self, group: Group, lr: Any, scale: Any, *, first: bool, fresh: bool) -> Surroundings:
        around = self.surroundings(group, lr, first=first)._replace(scale=scale)
        around = around._replace(clip=number(group, "clip_value"))
        if has(group, "average"):
            # As torch's AveragedModel: the average begins as the parameters after their first step.
            around = around._replace(weight=1.0 if fresh else 1 - number(group, "average"))
        l1 = number(group, "l1")
        if not group["proximal"]:
            return around._replace(l1=l1)
        contract = lr * number(group, "weight_decay")
        return around._replace(threshold=lr * l1, contract=contract, decay=None, shrink=None)

    def _redirected(self, groups: LiveGroups, gradients: Sequence[Tensor]) -> list[Tensor]:
        """What the rule sees in place of the gradients."""
        scale = None if self.clip_norm is None else self._scale(squares_of(gradients, 1))
        directions: list[Tensor] = []
        for group, (live, own) in zip(self.param_groups, groups, strict=True):
            if any(gradient.layout is not torch.strided for gradient in own):
                self.check_sparse(group)
            around = self._around(group, number(group, "lr"), scale, first=False, fresh=False)
            ready = [prepared(around, *pair) for pair in zip(live, own, strict=True)]
            directions += self.directions(group, live, ready)
        return directions

    def _clip(self, plan: Plan, gradients: Sequence[Tensor]) -> Any:
        """What the gradients are scaled by, or None."""
        if self.clip_norm is None:
            return None
        return self._scale(plan.squares(gradients, self.members))

    def _scale(self, squares: Tensor) -> Any:
        """From the gradients' sum of squares, one a member; on a GPU it stays there: nothing waits."""
        norm = squares.sqrt()
        scale = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        if norm.device.type == "cpu" and norm.numel() == 1:
            self.gradient_norm = norm.item()
            return scale.item()
        self.gradient_norm = norm
        return scale.squeeze()

    def _step_alone(self, cohort: Cohort, update: Update, columns: Columns, gradient: Tensor) -> None:
        group = self.param_groups[cohort.group]
        parameter, rest = columns.parameter, columns.rest
        by_rows = columns.rounding == "nearest" and update.around.weight is None and cohort.members == 1
        if gradient.is_sparse and not by_rows:
            gradient = gradient.to_dense()
        if gradient.is_sparse:
            self.step_sparse(update, parameter, gradient, rest)
        elif group.get("differentiable", False):
            new = eager.step_graph(update, parameter, gradient, rest)
            keys = (*cohort.rule.state, "average")
            self.state[parameter].update(zip(keys[: len(new)], new, strict=True))
        else:
            key = 0
            if columns.rounding == "stochastic":
                key = int(rounding.keys([columns.number], [float(update.counters[0])])[0])
            spare = [] if columns.remainder is None else [columns.remainder]
            x, dx, *rest = own_parts([parameter.detach(), gradient, *rest, *spare])
            remainder = rest.pop() if spare else None
            eager.step_dense(update, x, dx, rest, Storage(columns.rounding, key, remainder))

    def make_state(self) -> None:
        """Make the state of every parameter before its first step, where torch does so."""
        for group in self.param_groups:
            for parameter in group["params"]:
                entry = self.state[parameter]
                complete_state(self, entry, parameter, group, self.rule(group).state)
                complete_counters(self, entry, parameter, group, self.counters)

    # The average.

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the moving average in the parameters' place, and the parameters back at the end.

        Parameters that have not been stepped yet stay as they are. Buffers, such as batch norm's
        statistics, are the model's own affair.

        Raises:
            RuntimeError: there is no average (`average=0`), or it is in place already.
        """
        if not any(has(group, "average") for group in self.param_groups):
            raise RuntimeError("there is no average: make the optimizer with average=0.999, say")
        if self._is_averaged:
            raise RuntimeError("the average is in place already")
        kept = []
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    average = self.state[parameter].get("average") if parameter in self.state else None
                    if average is not None:
                        kept.append((parameter, parameter.detach().clone()))
                        parameter.copy_(average)
        self._is_averaged = True
        try:
            yield
        finally:
            self._is_averaged = False
            with torch.no_grad():
                for parameter, value in kept:
                    parameter.copy_(value)

    def refuse_while_averaged(self, what: str) -> None:
        """Refuse what would change the average, or lose the parameters that it stands in for.

        Raises:
            RuntimeError: the average is in the parameters' place.
        """
        if self._is_averaged:
            raise RuntimeError(f"{what} inside `with optimizer.averaged()`: the weights are not in place")

    # Groups, checkpoints and copies.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's.

        Raises:
            ValueError: an option is out of range or not a group's; a hyperparameter has one value a member
                and a parameter no such leading axis.
        """
        super().add_param_group(param_group)
        self._plan = None
        try:
            check_group(self.param_groups[-1])
            self.members = members_of(self.param_groups, self.defaults, self.clip_norm)
        except ValueError:
            del self.param_groups[-1]
            raise
        let_members_be_scheduled(self.param_groups[-1])

    def __getstate__(self) -> dict[str, Any]:
        """As torch's, with each counter on its own: pickle would repeat those of all for each."""
        self.refuse_while_averaged("a copy")
        state: defaultdict[Any, Any] = defaultdict(dict)
        for parameter, entry in self.state.items():
            state[parameter] = {key: _on_its_own(value) for key, value in entry.items()}
        own = {name: getattr(self, name) for name in ("engine", "clip_norm", "rounding")}
        return {"defaults": self.defaults, "state": state, "param_groups": self.param_groups, **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch's; options that an older checkpoint lacks take this optimizer's defaults."""
        self._plan = None
        self._is_averaged = self.__dict__.get("_is_averaged", False)
        self._loading = self.__dict__.get("_loading")
        self.gradient_norm = self.__dict__.get("gradient_norm")
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            let_members_be_scheduled(group)
        self.members = members_of(self.param_groups, self.defaults, self.clip_norm)
        if self._loading is not None:
            self._restore_dtypes(self._loading)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state made by this class or by torch's class of the same name.

        The state keeps the precision it was saved with: torch would round a float32 state to the
        parameter's dtype. A state narrower than its parameter is widened to it.

        Raises:
            ValueError: the parameter groups do not match.
        """
        self.refuse_while_averaged("load_state_dict()")
        remember = self.register_load_state_dict_pre_hook(_keep_loading)
        try:
            super().load_state_dict(state_dict)
        finally:
            remember.remove()
            self._loading = None

    def _restore_dtypes(self, saved: dict[str, Any]) -> None:
        numbers = [number for group in saved["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number_, parameter in zip(numbers, parameters, strict=True):
            for key, value in saved["state"].get(number_, {}).items():
                if not isinstance(value, Tensor):
                    continue
                if key == "step":  # torch takes it as it is: two optimizers would count in one place
                    self.state[parameter][key] = self.state[parameter][key].clone()
                    continue
                device, wide = parameter.device, value.dtype
                if key in self.counters:  # counters keep their own precision and place
                    device = value.device
                elif value.is_floating_point() or value.is_complex():
                    wide = torch.promote_types(value.dtype, parameter.dtype)
                self.state[parameter][key] = value.to(device, wide, copy=True)


def _keep_loading(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    optimizer._loading = state_dict  # type: ignore[attr-defined]


def _on_its_own(value: Any) -> Any:
    if isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes:
        return value.detach().clone()
    return value
