"""Shampoo: gradients divided by inverse roots of GGᵀ and GᵀG."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal, NamedTuple, Unpack

import torch
from torch import Tensor

from ...registry import register
from .. import rules
from ..base import Number, Parameters
from ..optimizers.checks import check, check_betas, check_lr
from ..options import Group, Options
from .base import MatrixOptimizer, check_finite, leaks, matrix_shape
from .batch import Batch
from .checks import check_count
from .elementwise import descent
from .roots import inverse_root
from .symmetric import add_outer_

GRAFTINGS = ("adam", "sgd")


class Block(NamedTuple):
    """A part of a matrix that is preconditioned by itself.

    Attributes:
        rows: from which row to which.
        columns: from which column to which.
        sides: the keys of the states of the sides that are preconditioned, with their lengths.
    """

    rows: slice
    columns: slice
    sides: dict[str, int]


@register(
    "optimizer",
    "shampoo",
    "gradients evened out from the left and the right of each matrix; steps as long as Adam's",
    source="Gupta et al., arXiv:1802.09568; Shi et al., arXiv:2309.06497",
    suggested={"lr": 3e-3},
)
class Shampoo(MatrixOptimizer):
    """Shampoo (Gupta et al., arXiv:1802.09568), with what Shi et al., arXiv:2309.06497, add to it.

    A matrix with gradient G moves along L^(-1/4)·M·R^(-1/4): L and R average GGᵀ and GᵀG, M averages G,
    all with their start corrected. A convolution is the matrix with a row a kernel. The step is as long as
    that of a method grafted on, which also steps vectors, and everything until the first roots are there,
    after `precondition_frequency` steps. Without such a method vectors are preconditioned from one side,
    and the first roots come with the first gradient.

    The state is "step", "exp_avg", Adam's "exp_avg_sq", and for each side "left" and "right", of which the
    lower triangle counts, with "left_root" and "right_root"; "left_1" and so on are those of a matrix's
    further blocks.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0.
        betas: the leaks of G, in [0, 1), and of GGᵀ and G², in [0, 1]; 1 sums them up, as the first paper.
        eps: ε of (L + εI)^(-1/4), above 0.
        weight_decay: decoupled, at least 0.
        precondition_frequency: steps between two computations of the roots, at least 1.
        max_preconditioner_dim: matrices with a longer side are cut into blocks, each taken for a matrix of
            its own; at least 1.
        exponent: in place of 1/4 for matrices and 1/2 for vectors, above 0.
        grafting: whose step's length each block takes: "adam", "sgd" (with momentum), or None's.
        grafting_eps: added to Adam's denominator, at least 0.
        precondition_1d: precondition vectors also where there is grafting.
        maximize: climb instead.
        **options: as in `Options`.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-12,
        weight_decay: float = 0.0,
        precondition_frequency: int = 10,
        max_preconditioner_dim: int = 1024,
        exponent: float | None = None,
        grafting: Literal["adam", "sgd"] | None = "adam",
        grafting_eps: float = 1e-8,
        *,
        precondition_1d: bool = False,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        check_lr(lr)
        check_betas(betas[:1])
        if not 0.0 <= betas[1] <= 1.0:
            raise ValueError(f"Invalid beta parameter at index 1: {betas[1]}")
        check("weight_decay value", weight_decay)
        check("grafting_eps", grafting_eps)
        for name, value in (("eps", eps), ("exponent", exponent)):
            if value is not None and not value > 0.0:
                raise ValueError(f"Invalid {name}: {value}; it must be above 0")
        check_count("precondition_frequency", precondition_frequency)
        check_count("max_preconditioner_dim", max_preconditioner_dim)
        if grafting not in (None, *GRAFTINGS):
            raise ValueError(f"Invalid grafting: {grafting!r}; valid are None, {', '.join(GRAFTINGS)}")
        if grafting == "adam" and betas[1] == 1.0:
            raise ValueError("grafting='adam' needs betas[1] below 1: its mean of squares would be no mean")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "precondition_frequency": precondition_frequency,
            "max_preconditioner_dim": max_preconditioner_dim,
            "exponent": exponent,
            "grafting": grafting,
            "grafting_eps": grafting_eps,
            "precondition_1d": precondition_1d,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **options)

    def check_gradients(self, live: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Refuse complex parameters, and gradients that are not finite."""
        super().check_gradients(live, gradients)
        check_finite("Shampoo", gradients)

    def direct(self, group: Group, batch: Batch) -> Sequence[Tensor]:
        """The preconditioned average of the gradients."""
        rows, columns = matrix_shape(batch.shape)
        blocks = _blocks(group, batch.shape)
        t = batch.steps + 1
        due = t % group["precondition_frequency"] == 0 or (t == 1 and group["grafting"] is None)
        for name, size in ((name, size) for block in blocks for name, size in block.sides.items()):
            batch.zeros(name, size, size)
            if due:
                batch.zeros(_root(name), size, size)
        keys = rules.adam.state if group["grafting"] == "adam" else ("exp_avg",)
        moments = [batch.zeros(key, *batch.shape).view(-1, rows, columns) for key in keys]
        found: list[Tensor] = []
        for part, gradients in batch.chunks(rows, columns):
            mean, direction = self._elementwise(group, t, gradients, [each[part] for each in moments])
            for block in blocks:
                place = (slice(None), block.rows, block.columns)
                sums = {name: batch.stack(name)[part] for name in block.sides}
                _accumulate(group, gradients[place], sums)
                if due:
                    _take_roots(group, t, sums, {name: batch.stack(_root(name))[part] for name in sums})
                if all(batch.has(_root(name)) for name in sums):
                    roots = [batch.stack(_root(name))[part] for name in sums]
                    turned = _turned(mean[place], *roots)
                    direction[place] = _grafted(turned, direction[place]) if group["grafting"] else turned
            found += direction.view(-1, *batch.shape).unbind()
        return found

    def _elementwise(
        self, group: Group, t: int, gradients: Tensor, moments: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The average of the gradients, its start corrected, and the step of the grafted method."""
        leak = leaks(group)
        if group["grafting"] == "adam":
            values = [*leak, group["grafting_eps"]]
            step = descent(rules.adam, gradients, moments, t, values, self.engine)
            return moments[0] / (1 - leak[0] ** t), step
        mean = moments[0].lerp_(gradients, 1 - leak[0]) / (1 - leak[0] ** t)
        return mean, mean.clone()


def _blocks(group: Group, shape: Sequence[int]) -> list[Block]:
    """The blocks of a parameter; none where it is not preconditioned."""
    is_matrix = len(shape) > 1
    if not is_matrix and group["grafting"] is not None and not group["precondition_1d"]:
        return []
    cuts = [_cuts(size, group["max_preconditioner_dim"]) for size in matrix_shape(shape)]
    found = []
    for number, (rows, columns) in enumerate(product(*cuts)):
        suffix = f"_{number}" if number else ""
        sides = {f"left{suffix}": rows.stop - rows.start}
        if is_matrix:
            sides[f"right{suffix}"] = columns.stop - columns.start
        found.append(Block(rows, columns, sides))
    return found


def _cuts(size: int, most: int) -> list[slice]:
    return [slice(start, min(start + most, size)) for start in range(0, size, most)]


def _root(name: str) -> str:
    """The key of a side's root: "left_1" has "left_root_1"."""
    side, *number = name.split("_")
    return "_".join((side, "root", *number))


def _accumulate(group: Group, gradients: Tensor, sums: Mapping[str, Tensor]) -> None:
    """L ← β₂L + (1 − β₂)GGᵀ and R likewise; the sums of GGᵀ and GᵀG where β₂ is 1."""
    leak = leaks(group)[1]
    share = 1.0 if leak == 1.0 else 1 - leak
    for name, side in sums.items():
        add_outer_(side, gradients if name.startswith("left") else gradients.mT, keep=leak, share=share)


def _take_roots(group: Group, t: int, sums: Mapping[str, Tensor], roots: Mapping[str, Tensor]) -> None:
    """Work out the inverse roots: of order 2k for a tensor with k sides, as the first paper has it."""
    leak = leaks(group)[1]
    exponent = group["exponent"] or 1 / (2 * len(sums))
    correction = 1.0 if leak == 1.0 else 1 - leak**t
    for name, side in sums.items():
        roots[name].copy_(inverse_root(side, exponent, group["eps"], correction))


def _turned(mean: Tensor, left: Tensor, right: Tensor | None = None) -> Tensor:
    """L^(-1/4)·M·R^(-1/4)."""
    return left @ mean if right is None else left @ mean @ right


def _grafted(direction: Tensor, model: Tensor) -> Tensor:
    """The direction at the length of another."""
    length = torch.linalg.vector_norm(direction, dim=(-2, -1), keepdim=True)
    wanted = torch.linalg.vector_norm(model, dim=(-2, -1), keepdim=True)
    return direction.mul_(wanted / length.clamp(min=torch.finfo(length.dtype).tiny))
