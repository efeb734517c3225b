"""Lion."""

from collections.abc import Sequence
from typing import Any, Unpack

from ...registry import register
from .. import rules
from ..base import Number, Parameters, RuleOptimizer
from ..kernels.surroundings import Surroundings
from ..options import Group, Options
from ..rule import Rule
from .checks import check, check_betas, check_lr
from .decay import decoupled
from .values import numbers


@register(
    "optimizer",
    "lion",
    "every weight moves by the rate, in momentum's direction: half of Adam's state, smaller rates",
    source="Chen et al., arXiv:2302.06675",
    suggested={"lr": 5e-4},
)
class Lion(RuleOptimizer):
    """Lion: evolved sign momentum (Chen et al., arXiv:2302.06675).

    The state is "exp_avg".

    Args:
        params: parameters, named parameters or groups.
        lr: how far every element moves in a step, at least 0; a third to a tenth of AdamW's.
        betas: the leaks of the step's direction and of what is kept, each in [0, 1).
        weight_decay: decoupled, at least 0; the paper takes 3 to 10 times AdamW's.
        maximize: climb instead.
        capturable: read a learning rate in a tensor on the device, for graph capture.
        differentiable: let autograd see the step.
        **options: as in `Options`.

    Raises:
        ValueError: a value out of range.
    """

    counters = ()

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1e-4,
        betas: tuple[Number, Number] = (0.9, 0.99),
        weight_decay: Number = 0,
        *,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        check_lr(lr)
        check_betas(betas)
        check("weight_decay value", weight_decay)
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **options)

    def rule(self, group: Group) -> Rule:
        """Lion's equation."""
        return rules.lion

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The rate and both leaks."""
        return numbers(group, "lr", "betas")

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """Weight decay is decoupled."""
        return decoupled(group, lr)
