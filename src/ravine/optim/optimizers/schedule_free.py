"""Schedule-Free SGD and AdamW."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from ...registry import register
from .. import rules
from ..base import Number, Parameters, RuleOptimizer
from ..kernels.surroundings import Surroundings
from ..options import Group, Options, number
from ..rule import Rule, maximum, where
from .checks import check, check_betas, check_lr
from .values import numbers, single

SMALLEST = 1e-300
"""Under a quotient that is not used where the divisor is zero."""


class ScheduleFree(RuleOptimizer):
    """What the schedule-free optimizers share: the average's weights, and the change of sequences.

    While training, the parameters are y, where gradients are taken. `eval()` puts the average x̄ in their
    place, `train()` puts back y, bit for bit. Both may be called twice.
    """

    counters = ("step", "weight_sum", "lr_max")

    @abstractmethod
    def share(self, group: Group) -> float:
        """β: y = (1 − β)·z + β·x̄."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's.

        Raises:
            ValueError: a proximal step is asked for: it is one of z, and the parameters are y.
        """
        super().add_param_group(param_group)
        if self.param_groups[-1]["proximal"]:
            del self.param_groups[-1]
            raise ValueError(
                f"proximal=True is no option of {type(self).__name__}: l1 and weight_decay "
                "act on the gradient at y"
            )

    def initial_state(self, parameter: Tensor, group: Group, key: str) -> Tensor:
        """Where the parameter is, for z."""
        if key == "z":
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            return parameter.detach().to(dtype, copy=True, memory_format=torch.preserve_format)
        return super().initial_state(parameter, group, key)

    def advance(self, group: Group, *counters: Any) -> Sequence[Any]:
        """The step, the sum of the average's weights and the largest rate so far.

        The weight of step t is tʳ·(largest rate)ᵖ, p `weight_lr_power`.

        Raises:
            RuntimeError: the parameters are the average, at which no gradient may be taken.
            ValueError: the rate, β, or what weights the average has several values.
        """
        if not group["train_mode"]:
            raise RuntimeError(
                f"{type(self).__name__}.step() was called after eval(): call optimizer.train() before "
                "the forward pass of a training step, and optimizer.eval() before an evaluation"
            )
        for name in ("lr", "momentum", "betas", "warmup_steps", "r", "weight_lr_power"):
            if name in group:
                single(group, name, "the weights of the average are kept once a parameter")
        t, weight_sum, lr_max = counters
        lr_max = maximum(_warm(group, t + 1), lr_max)
        return t + 1, weight_sum + _weight(group, t + 1, lr_max), lr_max

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The rate, warmed up, and the newest iterate's share of the average."""
        weight_sum, lr_max = others
        share = _weight(group, t, lr_max) / maximum(weight_sum, SMALLEST)
        return _warm(group, t), where(weight_sum > 0, share, 0.0)

    @torch.no_grad()
    def eval(self) -> None:
        """Put the average x̄ in the parameters' place: before an evaluation, or before saving the model."""
        self.refuse_while_averaged("eval()")
        for group, parameter, entry in self._switch(training=False):
            entry["y"] = parameter.detach().clone(memory_format=torch.preserve_format)
            parameter.copy_(_average(entry["y"], entry["z"], self.share(group)))

    @torch.no_grad()
    def train(self) -> None:
        """Put y, where training goes on, back into the parameters' place."""
        self.refuse_while_averaged("train()")
        for group, parameter, entry in self._switch(training=True):
            beta = self.share(group)
            y = entry.pop("y", None)
            if y is not None and torch.equal(_average(y, entry["z"], beta), parameter):
                parameter.copy_(y)
            else:  # the parameters were changed, or come from a checkpoint without y
                parameter.copy_(_between(parameter, entry["z"], 1 - beta))

    def _switch(self, *, training: bool) -> list[tuple[Group, Tensor, dict[str, Any]]]:
        """Note the mode; the parameters of the groups that were in the other, with their state."""
        turned = [group for group in self.param_groups if group["train_mode"] != training]
        for group in turned:
            group["train_mode"] = training
        return [
            (group, parameter, self.state[parameter])
            for group in turned
            for parameter in group["params"]
            if "z" in self.state.get(parameter, {})
        ]


@register(
    "optimizer",
    "schedule_free_sgd",
    "SGD with an average of its iterates in place of a schedule: stop whenever you like",
    source="Defazio et al., arXiv:2405.15682",
    suggested={"lr": 1.0},
)
class ScheduleFreeSGD(ScheduleFree):
    """Schedule-Free SGD (Defazio et al., arXiv:2405.15682). Use it with a constant rate.

    Call `optimizer.eval()` before every evaluation and before saving the model, and `optimizer.train()`
    before training goes on. Batch normalization's running statistics belong to y: refresh them for x̄.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0; 10 to 50 times that of SGD with momentum and a schedule.
        momentum: β, in (0, 1): gradients are taken at (1 − β)·z + β·x̄.
        weight_decay: L2 penalty at y, at least 0.
        warmup_steps: the rate rises linearly to `lr` over so many steps, at least 0.
        r: the weight of step t in the average grows as tʳ, at least 0.
        weight_lr_power: the weight of a step is the largest rate so far to this power.
        maximize: climb instead.
        capturable: keep step counts on the device, for graph capture.
        differentiable: let autograd see the step.
        **options: as in `Options`.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1.0,
        momentum: Number = 0.9,
        weight_decay: Number = 0,
        warmup_steps: int = 0,
        r: float = 0,
        weight_lr_power: float = 2,
        *,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        if not 0.0 < momentum < 1.0:
            raise ValueError(f"Invalid momentum value: {momentum}; it must lie between 0 and 1")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            **_averaging(lr, weight_decay, warmup_steps, r, weight_lr_power),
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **options)

    def share(self, group: Group) -> float:
        """The momentum."""
        beta: float = group["momentum"]
        return beta

    def rule(self, group: Group) -> Rule:
        """Schedule-Free SGD's equations."""
        return rules.schedule_free_sgd

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The rate, the newest iterate's share, β."""
        return *super().hyperparameters(group, t, *others), *numbers(group, "momentum")


@register(
    "optimizer",
    "schedule_free_adamw",
    "AdamW with an average of its iterates in place of a schedule: stop whenever you like",
    source="Defazio et al., arXiv:2405.15682",
    suggested={"lr": 2.5e-3},
)
class ScheduleFreeAdamW(ScheduleFree):
    """Schedule-Free AdamW (Defazio et al., arXiv:2405.15682). Use it with a constant rate.

    Call `optimizer.eval()` before every evaluation and before saving the model, and `optimizer.train()`
    before training goes on. Batch normalization's running statistics belong to y: refresh them for x̄.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0; 1 to 10 times that of AdamW with a schedule.
        betas: β₁ in (0, 1): gradients are taken at (1 − β₁)·z + β₁·x̄; the leak β₂ of the gradient's
            square, in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: decoupled, at y, at least 0.
        warmup_steps: the rate rises linearly to `lr` over so many steps, at least 0.
        r: the weight of step t in the average grows as tʳ, at least 0.
        weight_lr_power: the weight of a step is the largest rate so far to this power.
        maximize: climb instead.
        capturable: keep step counts on the device, for graph capture.
        differentiable: let autograd see the step.
        **options: as in `Options`.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Number = 2.5e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0,
        warmup_steps: int = 0,
        r: float = 0,
        weight_lr_power: float = 2,
        *,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        check_betas(betas)
        if betas[0] == 0:
            raise ValueError(f"Invalid beta parameter at index 0: {betas[0]}; it must lie between 0 and 1")
        check("epsilon value", eps)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            **_averaging(lr, weight_decay, warmup_steps, r, weight_lr_power),
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **options)

    def share(self, group: Group) -> float:
        """β₁."""
        beta: float = group["betas"][0]
        return beta

    def rule(self, group: Group) -> Rule:
        """Schedule-Free AdamW's equations."""
        return rules.schedule_free_adamw

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The rate, the newest iterate's share, β₁, β₂, the small constant, the decay."""
        averaging = super().hyperparameters(group, t, *others)
        return *averaging, *numbers(group, "betas", "eps", "weight_decay")

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """None but the direction: the decay is the rule's own."""
        return Surroundings(group["maximize"])


def _averaging(
    lr: Number, weight_decay: Number, warmup_steps: int, r: float, weight_lr_power: float
) -> dict[str, Any]:
    """The options of the average, checked with those that both classes have."""
    check_lr(lr)
    check("weight_decay value", weight_decay)
    check("warmup_steps value", warmup_steps)
    check("r value", r)
    check("weight_lr_power value", weight_lr_power)
    return {
        "warmup_steps": warmup_steps,
        "r": r,
        "weight_lr_power": weight_lr_power,
        "train_mode": True,
    }


def _warm(group: Group, t: Any) -> Any:
    """The learning rate of step t."""
    return number(group, "lr") * where(t < group["warmup_steps"], t / max(group["warmup_steps"], 1), 1.0)


def _weight(group: Group, t: Any, lr_max: Any) -> Any:
    return t ** group["r"] * lr_max ** group["weight_lr_power"]


def _average(y: Tensor, z: Tensor, beta: float) -> Tensor:
    """x̄ = (y − (1 − β)·z)/β."""
    return _between(y, z, 1 - 1 / beta)


def _between(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """The sum start + weight·(end − start), computed in the dtype of `end`."""
    return start.to(end.dtype).lerp(end, weight).to(start.dtype)
