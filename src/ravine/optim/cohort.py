"""Parameters that are at the same step of the same group: one set of numbers serves them all."""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .kernels.surroundings import Structure
from .rule import Rule

Entry = MutableMapping[str, Any]
"""What an optimizer's `state` holds for one parameter."""


@dataclass(eq=False)
class Cohort:
    """Some parameters of a group.

    Attributes:
        group: the group's number.
        rule: what steps them.
        structure: what is composed around it.
        members: parts along the leading axis that have hyperparameters of their own; 1 where none have.
        places: the parameters' places among those that the step takes.
        entries: their state.
        first: no state was there before the next step.
        fresh: no average was.
        counts: a row a counter, a column a parameter; each entry holds views of its column.
        on_device: the counters are not looked at, because a captured graph must follow them.
    """

    group: int
    rule: Rule
    structure: Structure
    members: int
    places: list[int]
    entries: list[Entry]
    first: bool
    fresh: bool
    counts: Tensor
    on_device: bool

    def values(self) -> list[Any] | None:
        """The counters, or None where the parameters no longer agree on them."""
        if self.on_device:
            return [row[0].double() for row in self.counts]  # 1 - β₂ᵗ would lose half its digits
        values = []
        for row in self.counts.tolist():
            if row.count(row[0]) != len(row):
                return None
            values.append(row[0])
        return values

    def set(self, values: Sequence[Any]) -> None:
        """Write the counters."""
        for row, value in zip(self.counts, values, strict=True):
            row.fill_(value)


def share_counts(entries: Sequence[Entry], counters: Sequence[str]) -> Tensor:
    """Move the entries' counters into one tensor, so that one write counts for all; entries get views."""
    if not counters:
        return torch.zeros(0, len(entries))
    counts = torch.stack([torch.stack([entry[key] for entry in entries]) for key in counters])
    for key, row in zip(counters, counts, strict=True):
        for entry, view in zip(entries, row.unbind(), strict=True):
            entry[key] = view
    return counts
