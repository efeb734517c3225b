"""A `torch.optim.Optimizer` whose `step` runs a rule."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

from .kernels import eager
from .kernels.eager import Surroundings, Update
from .kernels.packing import Entry, Pack, fits, gather_packs
from .rule import Rule

Group = dict[str, Any]
Number = float | Tensor
Parameters = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class Plan:
    """How the parameters of a group that have gradients are stepped: most packed, the others alone."""

    def __init__(
        self, rule: Rule, live: list[Tensor], packs: list[Pack], alone: list[int], first: set[int]
    ) -> None:
        """`alone`: positions in `live`; `first`: those among them whose state has just been made."""
        self.rule = rule
        self.live = live
        self.packs = packs
        self.alone = alone
        self.first = first
        # Packs depend on the parameters alone, never on when they first had a gradient: where some are
        # new in this step and some are not, all are packed again for the next.
        self.provisional = len({pack.first for pack in packs}) > 1

    def holds(self, rule: Rule, live: list[Tensor], state: Any) -> bool:
        """Whether the plan still is right: same rule, same parameters, state untouched by others."""
        if rule is not self.rule or len(live) != len(self.live):
            return False
        for one, other in zip(live, self.live, strict=True):
            if one is not other:
                return False
        return all(pack.intact(state) for pack in self.packs)


class RuleOptimizer(Optimizer, ABC):
    """Base of the optimizers: state, step counts, packing, torch's hooks and checkpoints.

    A subclass gives the rule and its hyperparameters by group. Each parameter has its own step count,
    `state[p]["step"]`, unless `counts_steps` is False.
    """

    counts_steps: ClassVar[bool] = True

    def __init__(self, params: Parameters, defaults: dict[str, Any]) -> None:
        """`params` and `defaults` as in torch."""
        self._plans: dict[int, Plan] = {}
        self._loading: dict[str, Any] | None = None
        super().__init__(params, defaults)
        if defaults.get("fused"):
            if defaults["differentiable"]:
                raise RuntimeError("`fused` does not support `differentiable`")
            if defaults["foreach"]:
                raise RuntimeError("`fused` and `foreach` cannot be `True` together.")

    # What a subclass says about itself.

    @abstractmethod
    def rule(self, group: Group) -> Rule:
        """The rule that a group's options ask for."""

    @abstractmethod
    def hyperparameters(self, group: Group, t: Any) -> Sequence[Any]:
        """The rule's hyperparameters at step `t`, `lr` first."""

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """What is composed around the rule; `first`: no state was there before this step."""
        return Surroundings(group["maximize"], number(group, "weight_decay"))

    def initial_state(self, parameter: Tensor, group: Group, key: str) -> Tensor:
        """A parameter's state before its first step: zeros."""
        return torch.zeros_like(parameter, memory_format=torch.preserve_format)

    def time(self, group: Group, t: Any) -> Any:
        """The step count that the rule sees at step `t`."""
        return t

    def check_sparse(self, group: Group) -> None:
        """Refuse sparse gradients before anything is changed, where they have no meaning."""
        raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")

    def step_sparse(self, update: Update, x: Tensor, dx: Tensor, state: list[Tensor]) -> None:
        """Take a sparse gradient: only the named rows have one, and only they move."""
        eager.step_rows(update, x, dx, state)

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
            RuntimeError: a gradient is sparse and the method has no meaning for that.
        """
        if not self._observed():
            return self._step(closure)
        return self._step_observed() if closure is None else self._step_observed(closure)

    # torch wraps `step` with its hooks and its profiler record, some 8 µs a step, unless told it did.
    step.hooked = True  # type: ignore[attr-defined]

    def _observed(self) -> bool:
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or torch.autograd.profiler._is_profiler_enabled
        )

    def _step(self, closure: Callable[[], float] | None = None) -> float | None:
        if "capturable" in self.defaults and torch.cuda.is_initialized():
            self._accelerator_graph_capture_health_check()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            for index, group in enumerate(self.param_groups):
                self._step_group(index, group)
        return loss

    _step_observed = Optimizer.profile_hook_step(_step)

    def _step_group(self, index: int, group: Group) -> None:
        live: list[Tensor] = []
        gradients: list[Tensor] = []
        sparse: set[int] = set()
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None:
                if gradient.is_sparse:
                    sparse.add(len(live))
                live.append(parameter)
                gradients.append(gradient)
        if not live:
            return
        if sparse:
            self.check_sparse(group)
        rule = self.rule(group)
        plan = self._plans.get(index)
        if plan is None or not sparse.issubset(plan.alone) or not plan.holds(rule, live, self.state):
            plan = self._plans[index] = self._make_plan(rule, group, live)
        for pack in plan.packs:
            pack.step(self._update(rule, group, pack.count(), first=pack.first), gradients)
        for position in plan.alone:
            first = self._complete(live[position], group, rule) or position in plan.first
            self._step_alone(rule, group, live[position], gradients[position], first=first)
            plan.first.discard(position)
        if plan.provisional:
            del self._plans[index]

    def _make_plan(self, rule: Rule, group: Group, live: list[Tensor]) -> Plan:
        packed: list[int] = []
        alone: list[int] = []
        first: list[bool] = []
        by_tensors = group["differentiable"] or group.get("capturable", False)
        for position, parameter in enumerate(live):
            first.append(self._complete(parameter, group, rule))
            gradient = parameter.grad
            packs_well = (
                not by_tensors and fits(parameter) and gradient is not None and not gradient.is_sparse
            )
            (packed if packs_well else alone).append(position)
        packs = gather_packs(
            [
                (position, live[position], self._entry(live[position], rule), first[position])
                for position in packed
            ],
            rule.state,
            counted=self.counts_steps,
        )
        return Plan(rule, live, packs, alone, {position for position in alone if first[position]})

    def _entry(self, parameter: Tensor, rule: Rule) -> Entry:
        """A parameter's state; where there is nothing to keep, `state` stays without it, as in torch."""
        if rule.state or self.counts_steps:
            entry: Entry = self.state[parameter]
            return entry
        return {}

    def _complete(self, parameter: Tensor, group: Group, rule: Rule) -> bool:
        """Make what is missing of a parameter's state; True where there was none."""
        entry = self._entry(parameter, rule)
        first = all(entry.get(key) is None for key in rule.state)
        if self.counts_steps and not isinstance(entry.get("step"), Tensor):
            wide = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
            device = parameter.device if group.get("capturable") else torch.device("cpu")
            entry["step"] = torch.tensor(float(entry.get("step", 0.0)), dtype=wide, device=device)
        for key in rule.state:
            if entry.get(key) is None:
                entry[key] = self.initial_state(parameter, group, key)
            elif entry[key].shape != parameter.shape:
                raise RuntimeError(
                    f"the state {key!r} has shape {tuple(entry[key].shape)} and its parameter "
                    f"{tuple(parameter.shape)}: this checkpoint belongs to another model"
                )
        return first

    def _step_alone(
        self, rule: Rule, group: Group, parameter: Tensor, gradient: Tensor, *, first: bool
    ) -> None:
        entry = self._entry(parameter, rule)
        t: Any = 0.0
        if self.counts_steps:
            if group["differentiable"] and entry["step"].requires_grad:
                raise RuntimeError("`requires_grad` is not supported for `step` in differentiable mode")
            entry["step"] += 1
            t = entry["step"] if group.get("capturable") else entry["step"].item()
        update = self._update(rule, group, t, first=first)
        state = [entry[key] for key in rule.state]
        if gradient.is_sparse:
            self.step_sparse(update, parameter, gradient, state)
        elif group["differentiable"]:
            entry.update(zip(rule.state, eager.step_graph(update, parameter, gradient, state), strict=True))
        else:
            eager.step_dense(update, parameter, gradient, state)

    def _update(self, rule: Rule, group: Group, t: Any, *, first: bool) -> Update:
        values = self.hyperparameters(group, t)
        around = self.surroundings(group, values[0], first=first)
        return Update(rule, around, self.time(group, t), values)

    # Checkpoints and copies.

    def __getstate__(self) -> dict[str, Any]:
        """As torch's, with each packed tensor on its own: pickle would repeat the whole pack for each."""
        state: defaultdict[Any, Any] = defaultdict(dict)
        for parameter, entry in self.state.items():
            state[parameter] = {key: _unpacked(value) for key, value in entry.items()}
        return {"defaults": self.defaults, "state": state, "param_groups": self.param_groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch's; options that an older checkpoint lacks take this optimizer's defaults."""
        self._plans = {}
        self._loading = self.__dict__.get("_loading")
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        if self._loading is not None:
            self._restore_dtypes(self._loading)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state made by this class or by torch's class of the same name.

        The state keeps the precision it was saved with: torch would round a float32 state to the
        parameter's dtype. A state narrower than its parameter is widened to it.

        Raises:
            ValueError: the parameter groups do not match.
        """
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
                if key != "step" and isinstance(value, Tensor):
                    wide = torch.promote_types(value.dtype, parameter.dtype)
                    self.state[parameter][key] = value.to(parameter.device, wide, copy=True)


def _keep_loading(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    optimizer._loading = state_dict  # type: ignore[attr-defined]


def _unpacked(value: Any) -> Any:
    if isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes:
        return value.detach().clone()
    return value


def number(group: Group, name: str) -> Any:
    """A group's option as the arithmetic takes it."""
    return as_number(group, group[name])


def as_number(group: Group, value: Any) -> Any:
    """A number; a 0-dim tensor stays one where autograd or a captured graph must see it."""
    if not isinstance(value, Tensor):
        return value
    if group["differentiable"] or group.get("capturable", False):
        return value.squeeze()
    return value.item()
