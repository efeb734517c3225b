"""AdaGrad (T4)."""

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from ...registry import register
from .. import rules
from ..base import Number, Parameters, RuleOptimizer
from ..options import Group, Options
from ..rule import Rule
from .checks import check, check_lr, refuse_sparse_decay
from .values import numbers


@register(
    "optimizer",
    "adagrad",
    "steps shrink with the sum of squared gradients: right for convex problems and sparse features",
    source="T4; Duchi, Hazan & Singer 2011",
    suggested={"lr": 0.01},
)
class Adagrad(RuleOptimizer):
    """AdaGrad (T4), as `torch.optim.Adagrad`.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0.
        lr_decay: the rate at step t is lr/(1 + (t − 1)·lr_decay).
        weight_decay: L2 penalty, at least 0.
        initial_accumulator_value: where the sum of squares starts, at least 0.
        eps: added to the denominator, at least 0.
        foreach, fused: accepted; they choose nothing here.
        maximize: climb instead.
        differentiable: let autograd see the step.
        **options: as in `Options`.

    Raises:
        ValueError: a value out of range.
        RuntimeError: `fused` together with `foreach` or `differentiable`.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1e-2,
        lr_decay: Number = 0,
        weight_decay: Number = 0,
        initial_accumulator_value: float = 0,
        eps: Number = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_lr(lr)
        check("lr_decay value", lr_decay)
        check("weight_decay value", weight_decay)
        check("initial_accumulator_value value", initial_accumulator_value)
        check("epsilon value", eps)
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, **options)
        self.make_state()

    def rule(self, group: Group) -> Rule:
        """T4."""
        return rules.adagrad

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The decayed rate, and the small constant."""
        lr, decay, eps = numbers(group, "lr", "lr_decay", "eps")
        return lr / (1 + (t - 1) * decay), eps

    def initial_state(self, parameter: Tensor, group: Group, key: str) -> Tensor:
        """The sum starts at `initial_accumulator_value`, in both parts of a complex number."""
        start = self.defaults["initial_accumulator_value"]
        value = complex(start, start) if parameter.is_complex() else start
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        return torch.full_like(parameter, value, dtype=dtype, memory_format=torch.preserve_format)

    def check_sparse(self, group: Group) -> None:
        """Weight decay would move every row."""
        refuse_sparse_decay(group)

    def share_memory(self) -> None:
        """Put the sums into memory that other processes can share."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["sum"].share_memory_()
