"""RAdam."""

from collections.abc import Sequence
from typing import Any, Unpack

from ...registry import register
from .. import rules
from ..base import Number, Parameters, RuleOptimizer
from ..kernels.surroundings import Surroundings
from ..options import Group, Options
from ..rule import Rule
from .checks import check, check_betas, check_lr
from .decay import coupled_or_decoupled
from .values import numbers


@register(
    "optimizer",
    "radam",
    "Adam whose denominator waits until it can be trusted: needs no warm-up",
    source="Liu et al., arXiv:1908.03265",
    suggested={"lr": 2e-3},
)
class RAdam(RuleOptimizer):
    """Rectified Adam, as `torch.optim.RAdam`.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0.
        betas: the leaks β₁ of the gradient and β₂ of its square, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: at least 0; an L2 penalty, or decoupled.
        decoupled_weight_decay: shrink x by lr·weight_decay instead of adding to the gradient.
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
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
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
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **options)

    def rule(self, group: Group) -> Rule:
        """RAdam's equation."""
        return rules.radam

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The rate, both leaks, the small constant."""
        return numbers(group, "lr", "betas", "eps")

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """Weight decay is coupled or decoupled."""
        return coupled_or_decoupled(group, lr)
