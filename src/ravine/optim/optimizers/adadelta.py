"""AdaDelta."""

from collections.abc import Sequence
from typing import Any, Unpack

from ...registry import register
from .. import rules
from ..base import Number, Parameters, RuleOptimizer
from ..options import Group, Options, holds
from ..rule import Rule
from .checks import check, check_lr
from .values import numbers


@register(
    "optimizer",
    "adadelta",
    "steps as large as the recent steps were: the rate hardly matters",
    source="Zeiler, arXiv:1212.5701",
    suggested={"lr": 1.0},
)
class Adadelta(RuleOptimizer):
    """AdaDelta, as `torch.optim.Adadelta`.

    Args:
        params: parameters, named parameters or groups.
        lr: factor of the step, at least 0; the paper has 1.
        rho: the leak of both mean squares, in [0, 1].
        eps: added to both under the root, at least 0; it sets the size of the first steps.
        weight_decay: L2 penalty, at least 0.
        foreach: accepted; it chooses nothing here.
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
        rho: Number = 0.9,
        eps: Number = 1e-6,
        weight_decay: Number = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        check_lr(lr)
        if not (holds(rho >= 0.0) and holds(rho <= 1.0)):
            raise ValueError(f"Invalid rho value: {rho}")
        check("epsilon value", eps)
        check("weight_decay value", weight_decay)
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **options)

    def rule(self, group: Group) -> Rule:
        """AdaDelta's equation."""
        return rules.adadelta

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The factor, the leak, the small constant."""
        return numbers(group, "lr", "rho", "eps")
