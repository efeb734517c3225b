"""NAdam and NAdamW."""

from collections.abc import Sequence
from typing import Any, Unpack

from ...registry import register
from .. import rules
from ..base import Number, Parameters, RuleOptimizer
from ..kernels.surroundings import Surroundings
from ..options import Group, Options
from ..rule import Rule
from .checks import check, check_betas, check_lr
from .decay import coupled_or_decoupled, stay_decoupled
from .values import numbers, single


@register(
    "optimizer",
    "nadam",
    "Adam with Nesterov's look-ahead in place of plain momentum",
    source="Dozat, ICLR workshop 2016",
    suggested={"lr": 2e-3},
)
class NAdam(RuleOptimizer):
    """NAdam, as `torch.optim.NAdam`.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0.
        betas: the leaks β₁ of the gradient and β₂ of its square, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: at least 0; an L2 penalty, or decoupled.
        momentum_decay: ψ, at least 0: the momentum of step t is β₁(1 − ½·0.96^(t·ψ)).
        decoupled_weight_decay: shrink x by lr·weight_decay instead of adding to the gradient (NAdamW).
        foreach: accepted; it chooses nothing here.
        maximize: climb instead.
        capturable: keep step counts on the device, for graph capture.
        differentiable: let autograd see the step.
        **options: as in `Options`.

    Raises:
        ValueError: a value out of range.
    """

    counters = ("step", "mu_product")

    def __init__(
        self,
        params: Parameters,
        lr: Number = 2e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0,
        momentum_decay: Number = 4e-3,
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
        check("momentum_decay value", momentum_decay)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **options)

    def rule(self, group: Group) -> Rule:
        """NAdam's equation."""
        return rules.nadam

    def initial_counter(self, group: Group, key: str) -> float:
        """The product of no momenta is 1."""
        return 1.0 if key == "mu_product" else super().initial_counter(group, key)

    def advance(self, group: Group, *counters: Any) -> Sequence[Any]:
        """The step, and the product of the momenta that were: β₁ may change on the way.

        Raises:
            ValueError: β₁ or ψ has several values.
        """
        for name in ("betas", "momentum_decay"):
            single(group, name, "the product of the momenta is kept once a parameter")
        t, product = counters
        decay, beta1, _ = numbers(group, "momentum_decay", "betas")
        return t + 1, product * beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * decay))

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The rate, the momenta's product and decay, both leaks, the small constant."""
        return *numbers(group, "lr"), *others, *numbers(group, "momentum_decay", "betas", "eps")

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """Weight decay is coupled, or decoupled as in NAdamW."""
        return coupled_or_decoupled(group, lr)


@register(
    "optimizer",
    "nadamw",
    "NAdam with decoupled weight decay",
    source="Dozat, ICLR workshop 2016; Loshchilov & Hutter, arXiv:1711.05101",
    suggested={"lr": 2e-3},
)
class NAdamW(NAdam):
    """NAdam with decoupled weight decay; the arguments are `NAdam`'s."""

    def __init__(
        self,
        params: Parameters,
        lr: Number = 2e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 1e-2,
        momentum_decay: Number = 4e-3,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            momentum_decay,
            True,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            **options,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A decay that was coupled where the state is from becomes decoupled."""
        super().__setstate__(state)
        stay_decoupled(self.param_groups)
