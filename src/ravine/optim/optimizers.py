"""torch's optimizers, each made from a rule: torch's names, arguments, defaults and checkpoints.

Every constructor call that is valid for torch's class is valid here and means the same. `foreach` and
`fused` choose among torch's implementations; here one engine serves all, so they are checked, kept in
the groups for the checkpoint's sake, and change nothing.
"""

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from ..registry import register
from . import rules
from .base import Group, Parameters, RuleOptimizer, as_number, number
from .kernels import eager
from .kernels.eager import Surroundings, Update
from .rule import Rule

Number = float | Tensor


def _check(what: str, value: Number) -> None:
    if not value >= 0.0:
        raise ValueError(f"Invalid {what}: {value}")


def _check_lr(lr: Number) -> None:
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    _check("learning rate", lr)


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

    Raises:
        ValueError: a value out of range.
        RuntimeError: `fused` together with `foreach` or `differentiable`.
    """

    counts_steps = False

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: Number = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        _check_lr(lr)
        _check("momentum value", momentum)
        _check("weight_decay value", weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
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
        super().__init__(params, defaults)

    def rule(self, group: Group) -> Rule:
        """T1, T2 or T3."""
        if group["momentum"] == 0:
            return rules.gradient_descent
        return rules.nesterov if group["nesterov"] else rules.momentum

    def hyperparameters(self, group: Group, t: Any) -> Sequence[Any]:
        """The learning rate, and ρ where there is momentum."""
        lr = number(group, "lr")
        return (lr,) if group["momentum"] == 0 else (lr, number(group, "momentum"))

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """Damping acts on the velocity alone, and not on the first gradient."""
        damping = 0 if first or group["momentum"] == 0 else group["dampening"]
        return Surroundings(group["maximize"], number(group, "weight_decay"), damping=damping)

    def check_sparse(self, group: Group) -> None:
        """Weight decay would move every row."""
        _refuse_sparse_decay(group)

    def step_sparse(self, update: Update, x: Tensor, dx: Tensor, state: list[Tensor]) -> None:
        """Without momentum the named rows alone move; a velocity moves every row."""
        if state:
            eager.step_dense(update, x, dx.to_dense(), state)
        else:
            super().step_sparse(update, x, dx, state)


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

    Raises:
        ValueError: a value out of range.
        RuntimeError: `fused` together with `foreach` or `differentiable`.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        _check_lr(lr)
        _check("lr_decay value", lr_decay)
        _check("weight_decay value", weight_decay)
        _check("initial_accumulator_value value", initial_accumulator_value)
        _check("epsilon value", eps)
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
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                self._complete(parameter, group, rules.adagrad)

    def rule(self, group: Group) -> Rule:
        """T4."""
        return rules.adagrad

    def hyperparameters(self, group: Group, t: Any) -> Sequence[Any]:
        """The decayed rate, and the small constant."""
        return number(group, "lr") / (1 + (t - 1) * group["lr_decay"]), group["eps"]

    def initial_state(self, parameter: Tensor, group: Group, key: str) -> Tensor:
        """The sum starts at `initial_accumulator_value`, in both parts of a complex number."""
        start = self.defaults["initial_accumulator_value"]
        value = complex(start, start) if parameter.is_complex() else start
        return torch.full_like(parameter, value, memory_format=torch.preserve_format)

    def check_sparse(self, group: Group) -> None:
        """Weight decay would move every row."""
        _refuse_sparse_decay(group)

    def share_memory(self) -> None:
        """Put the sums into memory that other processes can share."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["sum"].share_memory_()


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

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        _check_lr(lr)
        _check("epsilon value", eps)
        _check("momentum value", momentum)
        _check("weight_decay value", weight_decay)
        _check("alpha value", alpha)
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
        super().__init__(params, defaults)

    def rule(self, group: Group) -> Rule:
        """T5, with or without a velocity and a centre."""
        if group["momentum"] > 0:
            return rules.rmsprop_centered_momentum if group["centered"] else rules.rmsprop_momentum
        return rules.rmsprop_centered if group["centered"] else rules.rmsprop

    def hyperparameters(self, group: Group, t: Any) -> Sequence[Any]:
        """The rate, the leak, the small constant, and the friction where there is momentum."""
        values = (number(group, "lr"), group["alpha"], group["eps"])
        return (*values, group["momentum"]) if group["momentum"] > 0 else values


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

    Raises:
        ValueError: a value out of range.
        RuntimeError: `fused` together with `foreach` or `differentiable`.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        bias_correction: bool = True,
    ) -> None:
        by_foreach = bool(foreach) and not capturable
        if isinstance(lr, Tensor) and by_foreach:
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        _check_lr(lr)
        _check("epsilon value", eps)
        _check_betas(betas, by_foreach=by_foreach)
        _check("weight_decay value", weight_decay)
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
        super().__init__(params, defaults)

    def rule(self, group: Group) -> Rule:
        """T7, T6 or AMSGrad."""
        if group["amsgrad"]:
            return rules.amsgrad
        return rules.adam if group["bias_correction"] else rules.almost_adam

    def hyperparameters(self, group: Group, t: Any) -> Sequence[Any]:
        """The rate, both leaks, the small constant."""
        beta1, beta2 = group["betas"]
        return number(group, "lr"), as_number(group, beta1), as_number(group, beta2), group["eps"]

    def time(self, group: Group, t: Any) -> Any:
        """AMSGrad without bias correction is AMSGrad after infinitely many steps: βᵗ is 0."""
        return t if group["bias_correction"] else inf

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """Weight decay is coupled, or decoupled as in AdamW."""
        decay = number(group, "weight_decay")
        if group["decoupled_weight_decay"]:
            return Surroundings(group["maximize"], shrink=lr * decay)
        return Surroundings(group["maximize"], decay)

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
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        bias_correction: bool = True,
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
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch's: whatever is loaded, AdamW's decay stays decoupled."""
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True


def _check_betas(betas: tuple[Number, Number], *, by_foreach: bool) -> None:
    for index, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
    if isinstance(betas[0], Tensor) != isinstance(betas[1], Tensor):
        raise ValueError("betas must be either both floats or both Tensors")
    for index, beta in enumerate(betas):
        if isinstance(beta, Tensor) and by_foreach:
            raise ValueError(
                f"betas[{index}] as a Tensor is not supported for capturable=False and foreach=True"
            )
        if isinstance(beta, Tensor) and beta.numel() != 1:
            raise ValueError(f"Tensor betas[{index}] must be 1-element")


def _refuse_sparse_decay(group: Group) -> None:
    if group["weight_decay"] != 0:
        raise RuntimeError("weight_decay option is not compatible with sparse gradients")
