"""Muon: momentum, orthogonalized."""

from collections.abc import Sequence
from math import sqrt
from typing import Any, Literal, Unpack

from torch import Tensor

from ...registry import register
from ..base import Number, Parameters
from ..optimizers.checks import check_betas
from ..options import Group, Options, as_number, holds
from . import newton_schulz
from .base import MatrixOptimizer, leaks, matrix_shape
from .batch import Batch

ADJUSTMENTS = ("original", "match_rms_adamw")
ALGORITHMS = ("muon", "adam", "auto")
MOST_STEPS = 100


@register(
    "optimizer",
    "muon",
    "momentum made orthogonal: a matrix moves as much in every direction; vectors go by Adam",
    source="Keller Jordan, 2024; Liu et al., arXiv:2502.16982",
    suggested={"lr": 1e-2, "adjust_lr_fn": "match_rms_adamw", "algorithm": "auto"},
)
class Muon(MatrixOptimizer):
    """Muon, as `torch.optim.Muon`: the momentum of a matrix, its singular values moved towards one.

    The state is "momentum_buffer"; that of parameters stepped by Adam is "exp_avg" and "exp_avg_sq". Where
    a group's `algorithm` is other than "muon", there is also "step".

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0.
        weight_decay: decoupled, at least 0.
        momentum: share of the old momentum in the new, at least 0.
        nesterov: look ahead.
        ns_coefficients: a, b, c of a Newton-Schulz step.
        eps: the momentum's norm is taken for this at least; also what Adam adds to its denominator.
        ns_steps: Newton-Schulz steps, below 100.
        adjust_lr_fn: what the rate of an m×n matrix is multiplied by: "original" (or None) √max(1, m/n),
            "match_rms_adamw" 0.2·√max(m, n), with which AdamW's rates and weight decay suit it.
        algorithm: "muon" takes matrices alone, as torch; "adam" steps the group by AdamW, for embeddings
            and the last layer; "auto" decides for each parameter: matrices and convolutions (a row a
            kernel) by Muon, vectors by AdamW at the same rate.
        adam_betas: Adam's leaks β₁ and β₂, each in [0, 1).
        maximize: climb instead.
        **options: as in `Options`.

    Raises:
        ValueError: a value out of range; `algorithm` is "muon" and a parameter is no matrix.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None,
        *,
        algorithm: Literal["muon", "adam", "auto"] = "muon",
        adam_betas: tuple[Number, Number] = (0.9, 0.95),
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "algorithm": algorithm,
            "adam_betas": adam_betas,  # not "betas": schedulers would cycle them in place of the momentum
            "maximize": maximize,
        }
        _check(defaults)
        super().__init__(params, defaults, **options)

    @property
    def counters(self) -> tuple[str, ...]:  # type: ignore[override]
        """Muon itself counts no steps, and torch's has no such state; Adam needs them."""
        return () if all(group["algorithm"] == "muon" for group in self.param_groups) else ("step",)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's.

        Raises:
            ValueError: a value out of range; `algorithm` is "muon" and a parameter is no matrix.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check(group)
            if group["algorithm"] == "muon":
                for parameter in group["params"]:
                    if parameter.dim() != 2:
                        raise ValueError(
                            "Muon only supports 2D parameters whereas we found a parameter with size: "
                            f'{parameter.size()}; with algorithm="auto" others are stepped by AdamW'
                        )
        except ValueError:
            del self.param_groups[-1]
            raise

    def direct(self, group: Group, batch: Batch) -> Sequence[Tensor]:
        """Orthogonal momentum, or Adam's step."""
        if group["algorithm"] == "adam" or (group["algorithm"] == "auto" and len(batch.shape) < 2):
            return self.adam_direction(batch, leaks(group, "adam_betas"), group["eps"]).unbind()
        rows, columns = matrix_shape(batch.shape)
        momentum = as_number(group, group["momentum"])
        buffer = batch.zeros("momentum_buffer", *batch.shape).view(-1, rows, columns)
        found: list[Tensor] = []
        for part, gradients in batch.chunks(rows, columns):
            velocity = buffer[part].lerp_(gradients, 1 - momentum)
            ahead = gradients.lerp_(velocity, momentum) if group["nesterov"] else velocity
            direction = newton_schulz.orthogonalized(
                ahead, group["ns_coefficients"], group["eps"], group["ns_steps"]
            )
            direction = direction.mul_(_adjustment(group["adjust_lr_fn"], rows, columns)).contiguous()
            found += direction.view(-1, *batch.shape).unbind()
        return found


def _check(group: Group) -> None:
    """Refuse what is out of range, in torch's words."""
    for name, what in (("lr", "Learning rate"), ("momentum", "momentum"), ("weight_decay", "weight decay")):
        if not holds(group[name] >= 0.0):
            raise ValueError(f"{what} should be >= 0 but is: {group[name]}")
    if group["adjust_lr_fn"] not in (None, *ADJUSTMENTS):
        raise ValueError(f"Adjust learning rate function {group['adjust_lr_fn']} is not supported")
    if group["algorithm"] not in ALGORITHMS:
        raise ValueError(f"Invalid algorithm: {group['algorithm']!r}; valid are {', '.join(ALGORITHMS)}")
    if len(group["ns_coefficients"]) != 3:
        raise ValueError("Coefficients must be a tuple of exactly 3 values")
    if not group["ns_steps"] < MOST_STEPS:
        raise ValueError(f"Number of steps must be less than {MOST_STEPS} for computational efficiency")
    check_betas(group["adam_betas"])


def _adjustment(name: str | None, rows: int, columns: int) -> float:
    """What the rate is multiplied by. Liu et al., arXiv:2502.16982, section 2.2."""
    if name == "match_rms_adamw":
        return 0.2 * sqrt(max(rows, columns))
    return sqrt(max(1.0, rows / columns))
