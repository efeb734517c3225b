"""Refusals that several optimizers share, in torch's words."""

from torch import Tensor

from ..base import Group, Number


def check(what: str, value: Number) -> None:
    """Refuse what is negative or not a number."""
    if not value >= 0.0:
        raise ValueError(f"Invalid {what}: {value}")


def check_lr(lr: Number) -> None:
    """Refuse a learning rate that is negative, or a tensor of several."""
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    check("learning rate", lr)


def refuse_sparse_decay(group: Group) -> None:
    """Weight decay moves every row, a sparse gradient only some."""
    if group["weight_decay"] != 0:
        raise RuntimeError("weight_decay option is not compatible with sparse gradients")
