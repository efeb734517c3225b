"""How several optimizers take their weight decay."""

from typing import Any

from ..kernels.surroundings import Surroundings
from ..options import Group, number


def coupled_or_decoupled(group: Group, lr: Any) -> Surroundings:
    """λ·x is added to the gradient, or as in AdamW where the group says `decoupled_weight_decay`."""
    if group["decoupled_weight_decay"]:
        return decoupled(group, lr)
    return Surroundings(group["maximize"], decay=number(group, "weight_decay"))


def decoupled(group: Group, lr: Any) -> Surroundings:
    """Shrink x by lr·weight_decay. Loshchilov & Hutter, arXiv:1711.05101."""
    return Surroundings(group["maximize"], shrink=lr * number(group, "weight_decay"))


def stay_decoupled(groups: list[Group]) -> None:
    """Whatever was loaded, the decay of AdamW and NAdamW stays decoupled, as torch has it."""
    for group in groups:
        group["decoupled_weight_decay"] = True
