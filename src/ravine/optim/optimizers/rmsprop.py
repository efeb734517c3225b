"""RMSProp (T5)."""

from collections.abc import Sequence
from typing import Any, Unpack

from ...registry import register
from .. import rules
from ..base import Number, Parameters, RuleOptimizer
from ..options import Group, Options, has
from ..rule import Rule
from .checks import check, check_lr
from .values import numbers


@register(
    "optimizer",
    "rmsprop",
    "AdaGrad with a leak: the recent squared gradients set each step's size",
    source="T5; Tieleman & Hinton 2012; centred: Graves, arXiv:1308.0850",
    suggested={"lr": 1e-3},
)
class RMSprop(RuleOptimizer):
    """RMSProp (T5), as `torch.optim.RMSprop`.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0.
        alpha: the lecture's leak δ, at least 0.
        eps: added to the denominator, at least 0.
        weight_decay: L2 penalty, at least 0.
        momentum: friction of a velocity that the scaled gradient drives; 0 keeps none.
        centered: divide by the standard deviation instead of the root mean square.
        capturable: keep step counts on the device, for graph capture.
        foreach: accepted; it chooses nothing here.
        maximize: climb instead.
        differentiable: let autograd see the step.
        **options: as in `Options`.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1e-2,
        alpha: Number = 0.99,
        eps: Number = 1e-8,
        weight_decay: Number = 0,
        momentum: Number = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        check_lr(lr)
        check("epsilon value", eps)
        check("momentum value", momentum)
        check("weight_decay value", weight_decay)
        check("alpha value", alpha)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **options)

    def rule(self, group: Group) -> Rule:
        """T5, with or without a velocity and a centre."""
        if has(group, "momentum"):
            return rules.rmsprop_centered_momentum if group["centered"] else rules.rmsprop_momentum
        return rules.rmsprop_centered if group["centered"] else rules.rmsprop

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The rate, the leak, the small constant, and the friction where there is momentum."""
        momentum = ("momentum",) if has(group, "momentum") else ()
        return numbers(group, "lr", "alpha", "eps", *momentum)
