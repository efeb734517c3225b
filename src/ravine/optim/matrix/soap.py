"""SOAP: Adam in the eigenbasis of Shampoo's statistics."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from ...registry import register
from .. import rules
from ..base import Number, Parameters
from ..optimizers.checks import check, check_betas, check_lr
from ..options import Group, Options, as_number
from .base import MatrixOptimizer, check_finite, leaks, matrix_shape
from .batch import Batch
from .checks import check_count
from .eigenbasis import Bases, first_basis, next_basis, reordered
from .elementwise import descent
from .symmetric import add_outer_


class Side(NamedTuple):
    """What is kept of one side of each matrix of a batch.

    Attributes:
        sums: the moving average of GGᵀ (of GᵀG on the right), lower triangles, (N, n, n).
        basis: its eigenvectors, a row each, (N, n, n).
    """

    sums: Tensor
    basis: Tensor


@register(
    "optimizer",
    "soap",
    "Adam along the axes of each matrix's gradients, found as it goes: cures what is turned against the axes",
    source="Vyas et al., arXiv:2409.11321",
    suggested={"lr": 3e-3},
)
class SOAP(MatrixOptimizer):
    """SOAP: Adam in the slowly turning eigenbasis of Shampoo's statistics (Vyas et al., arXiv:2409.11321).

    For a matrix with gradient G, Q_L and Q_R being eigenvectors of moving averages of GGᵀ and GᵀG, Adam is
    run on Q_Lᵀ·G·Q_R, and its step turned back. As in the authors' program a matrix's first gradient only
    gives the first basis, and the average of the gradients turns with the basis. A convolution is the
    matrix with a row a kernel. Vectors, and matrices both of whose sides are too long, are stepped by
    AdamW.

    The state is "step", "exp_avg" and "exp_avg_sq" (for matrices: in the eigenbasis), and for each side
    "left" and "right", of which the lower triangle counts, "left_basis" and "right_basis", an eigenvector
    a row.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate, at least 0.
        betas: Adam's leaks β₁ and β₂, each in [0, 1).
        shampoo_beta: the leak of GGᵀ and GᵀG, in [0, 1); None takes β₂.
        eps: added to Adam's denominator, at least 0.
        weight_decay: decoupled, at least 0.
        precondition_frequency: steps between two updates of the basis, at least 1.
        max_precondition_dim: a longer side keeps its own axes; at least 1.
        precondition_1d: treat vectors as matrices of one column.
        maximize: climb instead.
        **options: as in `Options`.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Number = 3e-3,
        betas: tuple[Number, Number] = (0.95, 0.95),
        shampoo_beta: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        precondition_frequency: int = 10,
        max_precondition_dim: int = 10000,
        *,
        precondition_1d: bool = False,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        check_lr(lr)
        check_betas(betas)
        if shampoo_beta is not None and not 0.0 <= shampoo_beta < 1.0:
            raise ValueError(f"Invalid shampoo_beta: {shampoo_beta}")
        check("epsilon value", eps)
        check("weight_decay value", weight_decay)
        check_count("precondition_frequency", precondition_frequency)
        check_count("max_precondition_dim", max_precondition_dim)
        defaults = {
            "lr": lr,
            "betas": betas,
            "shampoo_beta": shampoo_beta,
            "eps": eps,
            "weight_decay": weight_decay,
            "precondition_frequency": precondition_frequency,
            "max_precondition_dim": max_precondition_dim,
            "precondition_1d": precondition_1d,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **options)

    def check_gradients(self, live: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Refuse complex parameters, and gradients that are not finite."""
        super().check_gradients(live, gradients)
        check_finite("SOAP", gradients)

    def direct(self, group: Group, batch: Batch) -> Sequence[Tensor]:
        """Adam's step, found in the eigenbasis; nothing in a matrix's first step."""
        rows, columns = matrix_shape(batch.shape)
        sides = _sides(group, batch.shape)
        if not sides:
            return self.adam_direction(batch, leaks(group), group["eps"]).unbind()
        begins = not all(batch.has(f"{name}_basis") for name in sides)
        moments = [batch.zeros(key, *batch.shape).view(-1, rows, columns) for key in rules.adam.state]
        kept = {
            name: Side(batch.zeros(name, size, size), batch.zeros(f"{name}_basis", size, size))
            for name, size in sides.items()
        }
        turns = not begins and batch.steps % group["precondition_frequency"] == 0
        found: list[Tensor] = []
        for part, gradients in batch.chunks(rows, columns):
            own = {name: Side(side.sums[part], side.basis[part]) for name, side in kept.items()}
            if begins:
                direction = torch.zeros_like(gradients)
            else:
                direction = self._in_basis(
                    group, batch.steps, gradients, _bases(own), [m[part] for m in moments]
                )
            _accumulate(group, gradients, own)
            if begins:
                for side in own.values():
                    side.basis.copy_(first_basis(side.sums))
            elif turns:
                _turn(own, *(m[part] for m in moments))
            found += direction.view(-1, *batch.shape).unbind()
        return found

    def _in_basis(
        self, group: Group, t: int, gradients: Tensor, bases: Bases, moments: Sequence[Tensor]
    ) -> Tensor:
        """Algorithm 3, lines 3-9: Adam in the basis. Its steps are counted from the second."""
        turned = bases.project(gradients)
        values = [*leaks(group), group["eps"]]
        return bases.project_back(descent(rules.adam, turned, moments, t, values, self.engine))


def _sides(group: Group, shape: Sequence[int]) -> dict[str, int]:
    """Which sides of a parameter have a basis, and their lengths. A side of one has only one basis."""
    if len(shape) < (1 if group["precondition_1d"] else 2):
        return {}
    lengths = zip(("left", "right"), matrix_shape(shape), strict=True)
    return {name: size for name, size in lengths if 1 < size <= group["max_precondition_dim"]}


def _bases(sides: dict[str, Side]) -> Bases:
    return Bases(*(sides[name].basis if name in sides else None for name in ("left", "right")))


def _accumulate(group: Group, gradients: Tensor, sides: dict[str, Side]) -> None:
    """Algorithm 3, lines 12 and 13: the averages of GGᵀ and GᵀG."""
    leak = group["shampoo_beta"]
    leak = as_number(group, group["betas"][1]) if leak is None else leak
    for name, side in sides.items():
        add_outer_(side.sums, gradients if name == "left" else gradients.mT, keep=leak, share=1 - leak)


def _turn(sides: dict[str, Side], mean: Tensor, squares: Tensor) -> None:
    """Algorithm 4: the next bases; Adam's averages follow them.

    The mean of the gradients is turned; the mean squares, which have no counterpart in another basis, go
    with the vectors they belong to.
    """
    original = _bases(sides).project_back(mean)
    orders: dict[str, Tensor] = {}
    for name, side in sides.items():
        basis, orders[name] = next_basis(side.sums, side.basis)
        side.basis.copy_(basis)
    squares.copy_(reordered(squares, orders.get("left"), orders.get("right")))
    mean.copy_(_bases(sides).project(original))
