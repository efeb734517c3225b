"""Adamax."""

from collections.abc import Sequence
from typing import Any, Unpack

from ...registry import register
from .. import rules
from ..base import Number, Parameters, RuleOptimizer
from ..options import Group, Options
from ..rule import Rule
from .checks import check, check_betas, check_lr
from .values import numbers


@register(
    "optimizer",
    "adamax",
    "Adam divided by the largest recent gradient instead of the root mean square",
    source="Kingma & Ba, arXiv:1412.6980",
    suggested={"lr": 2e-3},
)
class Adamax(RuleOptimizer):
    """Adamax, as `torch.optim.Adamax`.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0.
        betas: the leaks β₁ of the gradient and β₂ of its largest size, each in [0, 1).
        eps: added to the gradient's size, at least 0.
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
        lr: Number = 2e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        check_lr(lr)
        check("epsilon value", eps)
        check_betas(betas)
        check("weight_decay value", weight_decay)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults, **options)

    def rule(self, group: Group) -> Rule:
        """Adamax's equation."""
        return rules.adamax

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The rate, both leaks, the small constant."""
        return numbers(group, "lr", "betas", "eps")
