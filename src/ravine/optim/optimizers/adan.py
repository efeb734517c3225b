"""Adan."""

from collections.abc import Sequence
from typing import Any, Unpack

from ...registry import register
from .. import rules
from ..base import Number, Parameters, RuleOptimizer
from ..kernels.surroundings import Surroundings
from ..options import Group, Options, number
from ..rule import Rule
from .checks import check, check_betas, check_lr
from .values import numbers


@register(
    "optimizer",
    "adan",
    "Nesterov momentum by the gradient's change, scaled as in Adam: takes larger rates than Adam",
    source="Xie et al., arXiv:2208.06677",
    suggested={"lr": 4e-3},
)
class Adan(RuleOptimizer):
    """Adan: adaptive Nesterov momentum (Xie et al., arXiv:2208.06677).

    The state is "exp_avg", "exp_avg_diff", "exp_avg_sq" and "previous_grad".

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0.
        betas: the leaks of the gradient, of its change and of the square, each in [0, 1); one minus
            the paper's β, as in its authors' code.
        eps: added to the denominator, at least 0.
        weight_decay: decoupled, at least 0: after the step x is divided by 1 + lr·weight_decay.
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
        lr: Number = 1e-3,
        betas: tuple[Number, Number, Number] = (0.98, 0.92, 0.99),
        eps: Number = 1e-8,
        weight_decay: Number = 0,
        *,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
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
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **options)

    def rule(self, group: Group) -> Rule:
        """Adan's equation."""
        return rules.adan

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The rate, three leaks, the small constant."""
        return numbers(group, "lr", "betas", "eps")

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """Weight decay is a proximal step, as in the paper's algorithm."""
        return Surroundings(group["maximize"], contract=lr * number(group, "weight_decay"))
