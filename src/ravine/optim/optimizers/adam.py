"""Adam with and without bias correction (T6, T7), AMSGrad and AdamW."""

from collections.abc import Sequence
from math import inf
from typing import Any, Unpack

from torch import Tensor

from ...registry import register
from .. import rules
from ..base import Number, Parameters, RuleOptimizer
from ..kernels.surroundings import Surroundings
from ..options import Group, Options
from ..rule import Rule
from .checks import check, check_betas, check_lr
from .decay import coupled_or_decoupled, stay_decoupled
from .values import numbers


@register(
    "optimizer",
    "adam",
    "momentum and RMSProp together, both corrected for their start: a good first choice",
    source="T6, T7; Kingma & Ba, arXiv:1412.6980; AMSGrad: Reddi, Kale & Kumar, ICLR 2018",
    suggested={"lr": 1e-3},
)
class Adam(RuleOptimizer):
    """Adam (T7), as `torch.optim.Adam`, and Adam without bias correction (T6).

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0.
        betas: the leaks β₁ of the gradient and β₂ of its square, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: at least 0; an L2 penalty, or decoupled.
        amsgrad: divide by the largest mean square so far.
        foreach, fused: accepted; they choose nothing here.
        maximize: climb instead.
        capturable: keep step counts on the device, for graph capture.
        differentiable: let autograd see the step.
        decoupled_weight_decay: shrink x by lr·weight_decay instead of adding to the gradient (AdamW).
        bias_correction: False gives the lecture's "almost Adam", whose first step is 3.16 times as
            large with the usual betas.
        **options: as in `Options`.

    Raises:
        ValueError: a value out of range.
        RuntimeError: `fused` together with `foreach` or `differentiable`.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        bias_correction: bool = True,
        **options: Unpack[Options],
    ) -> None:
        by_foreach = bool(foreach) and not capturable
        if isinstance(lr, Tensor) and by_foreach:
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        check_lr(lr)
        check("epsilon value", eps)
        _check_betas(betas, by_foreach=by_foreach)
        check("weight_decay value", weight_decay)
        defaults = {
            "lr": lr,
            "betas": tuple(beta.squeeze() if isinstance(beta, Tensor) else beta for beta in betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
            "bias_correction": bias_correction,
        }
        super().__init__(params, defaults, **options)

    def rule(self, group: Group) -> Rule:
        """T7, T6 or AMSGrad."""
        if group["amsgrad"]:
            return rules.amsgrad
        return rules.adam if group["bias_correction"] else rules.almost_adam

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The rate, both leaks, the small constant."""
        return numbers(group, "lr", "betas", "eps")

    def time(self, group: Group, t: Any) -> Any:
        """AMSGrad without bias correction is AMSGrad after infinitely many steps: βᵗ is 0."""
        return t if group["bias_correction"] else inf

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """Weight decay is coupled, or decoupled as in AdamW."""
        return coupled_or_decoupled(group, lr)

    def check_sparse(self, group: Group) -> None:
        """Refused: a row without gradient would still move."""
        raise RuntimeError("Adam does not support sparse gradients, please consider SparseAdam instead")


@register(
    "optimizer",
    "adamw",
    "Adam with decoupled weight decay: the parameters shrink, the gradient's averages do not see it",
    source="Loshchilov & Hutter, arXiv:1711.05101",
    suggested={"lr": 1e-3},
)
class AdamW(Adam):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`; the arguments are `Adam`'s."""

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        bias_correction: bool = True,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            bias_correction=bias_correction,
            **options,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch's: whatever is loaded, AdamW's decay stays decoupled."""
        super().__setstate__(state)
        stay_decoupled(self.param_groups)


def _check_betas(betas: tuple[Number, Number], *, by_foreach: bool) -> None:
    check_betas(betas)
    if isinstance(betas[0], Tensor) != isinstance(betas[1], Tensor):
        raise ValueError("betas must be either both floats or both Tensors")
    for index, beta in enumerate(betas):
        if isinstance(beta, Tensor) and by_foreach:
            raise ValueError(
                f"betas[{index}] as a Tensor is not supported for capturable=False and foreach=True"
            )
