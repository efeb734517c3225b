"""Refusals that several optimizers share, in torch's words.

A hyperparameter may hold one value a member (`options.members_of` checks their number): all are checked.
"""

from collections.abc import Iterable

from ..base import Number
from ..options import Group, has, holds


def check(what: str, value: Number) -> None:
    """Refuse what is negative or not a number."""
    if not holds(value >= 0.0):
        raise ValueError(f"Invalid {what}: {value}")


def check_lr(lr: Number) -> None:
    """Refuse a learning rate that is negative."""
    check("learning rate", lr)


def check_betas(betas: Iterable[Number]) -> None:
    """Refuse leaks outside [0, 1)."""
    for index, beta in enumerate(betas):
        if not (holds(beta >= 0.0) and holds(beta < 1.0)):
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")


def refuse_sparse_decay(group: Group) -> None:
    """Weight decay and the L1 penalty move every row, a sparse gradient only some."""
    for name in ("weight_decay", "l1"):
        if has(group, name):
            raise RuntimeError(f"{name} option is not compatible with sparse gradients")
