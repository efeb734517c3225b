"""A group's options as a rule takes them: numbers, or tensors of one value a member."""

from typing import Any

from torch import Tensor

from ..options import Group, as_number


def numbers(group: Group, *names: str) -> list[Any]:
    """The options called so; those of `betas` one by one."""
    found = []
    for name in names:
        value = group[name]
        found += [as_number(group, each) for each in (value if isinstance(value, tuple | list) else [value])]
    return found


def single(group: Group, name: str, why: str) -> None:
    """Refuse one value a member where it cannot be.

    Raises:
        ValueError: there are several; `why` says why that cannot be.
    """
    value = group[name]
    for each in value if isinstance(value, tuple | list) else [value]:
        if isinstance(each, Tensor) and each.numel() > 1:
            raise ValueError(f"{name} cannot have one value a member: {why}")
