"""Gradient descent with momentum and Nesterov momentum (T1-T3)."""

from collections.abc import Sequence
from typing import Any, Unpack

from torch import Tensor

from ...registry import register
from .. import rules
from ..base import Number, Parameters, RuleOptimizer
from ..kernels import eager
from ..kernels.eager import Update
from ..kernels.surroundings import Surroundings
from ..options import Group, Options, has, holds, number
from ..rule import Rule
from .checks import check, check_lr, refuse_sparse_decay
from .values import numbers


@register(
    "optimizer",
    "sgd",
    "gradient descent, with momentum or Nesterov's look-ahead",
    source="T1-T3; Polyak 1964; Nesterov 1983; Sutskever et al. 2013",
    suggested={"lr": 0.05, "momentum": 0.9, "nesterov": True},
)
class SGD(RuleOptimizer):
    """Gradient descent (T1), with momentum (T2) or Nesterov momentum (T3), as `torch.optim.SGD`.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0.
        momentum: friction ρ, at least 0; 0 keeps no velocity.
        dampening: the gradient enters the velocity times (1 − dampening), except the first.
        weight_decay: L2 penalty λ, at least 0: λ·x is added to the gradient.
        nesterov: look ahead; needs momentum and no dampening.
        maximize: climb instead.
        foreach, fused: accepted; they choose nothing here.
        differentiable: let autograd see the step.
        **options: as in `Options`.

    Raises:
        ValueError: a value out of range.
        RuntimeError: `fused` together with `foreach` or `differentiable`.
    """

    counters = ()

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1e-3,
        momentum: Number = 0,
        dampening: Number = 0,
        weight_decay: Number = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_lr(lr)
        check("momentum value", momentum)
        check("weight_decay value", weight_decay)
        if nesterov and not (holds(momentum > 0) and holds(dampening == 0)):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, **options)

    def rule(self, group: Group) -> Rule:
        """T1, T2 or T3."""
        if not has(group, "momentum"):
            return rules.gradient_descent
        return rules.nesterov if group["nesterov"] else rules.momentum

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The learning rate, and ρ where there is momentum."""
        return numbers(group, "lr", "momentum") if has(group, "momentum") else numbers(group, "lr")

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """Damping acts on the velocity alone, and not on the first gradient."""
        momentum, damping = numbers(group, "momentum", "dampening")
        if first or not has(group, "momentum"):
            damping = None
        elif isinstance(momentum, Tensor):  # members without momentum have no velocity
            damping = (momentum != 0).double() * damping
        return Surroundings(group["maximize"], decay=number(group, "weight_decay"), damping=damping)

    def check_sparse(self, group: Group) -> None:
        """Weight decay would move every row."""
        refuse_sparse_decay(group)

    def step_sparse(self, update: Update, x: Tensor, dx: Tensor, state: list[Tensor]) -> None:
        """Without momentum the named rows alone move; a velocity moves every row."""
        if state:
            eager.step_dense(update, x, dx.to_dense(), state)
        else:
            super().step_sparse(update, x, dx, state)
