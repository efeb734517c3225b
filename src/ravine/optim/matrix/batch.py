"""Parameters of one shape as one: their states and gradients stacked, so that one call works on all."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..cohort import Entry

CHUNK = 1 << 20
"""Elements of a batch worked on at a time by a processor: what lies between is so small that it stays in the
cache, and adds little to the memory."""


class Batch(NamedTuple):
    """Parameters of one shape that have taken equally many steps.

    A state's stack owns the memory, and each parameter's `state[p][key]` is its part of it: nothing is
    copied from step to step. What was put into a state from outside, by a checkpoint say, is stacked anew.

    Attributes:
        entries: the parameters' states.
        gradients: what the rule is to see, in the parameters' shape.
        steps: how many each has taken before.
        dtype: of the computation and of the states: float32 or float64.
    """

    entries: Sequence[Entry]
    gradients: Sequence[Tensor]
    steps: int
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        """Of each parameter."""
        return self.gradients[0].shape

    def has(self, key: str) -> bool:
        """Whether each parameter has such a state."""
        return all(entry.get(key) is not None for entry in self.entries)

    def stack(self, key: str) -> Tensor:
        """A state of all parameters, (N, ...); what is written to it is the parameters' state."""
        values = [entry[key] for entry in self.entries]
        base: Tensor | None = values[0]._base
        if base is not None and base.dtype is self.dtype and _are_rows(values, base):
            return base
        return self.put(key, stacked(values, self.dtype))

    def zeros(self, key: str, *shape: int) -> Tensor:
        """As `stack`; the state is made where it is missing, of zeros."""
        for entry in self.entries:
            if entry.get(key) is None:
                entry[key] = torch.zeros(shape, dtype=self.dtype, device=self.gradients[0].device)
        return self.stack(key)

    def put(self, key: str, stack: Tensor) -> Tensor:
        """Make a stack's rows the parameters' state."""
        for entry, row in zip(self.entries, stack.unbind(), strict=True):
            entry[key] = row
        return stack

    def chunks(self, rows: int, columns: int) -> Iterator[tuple[slice, Tensor]]:
        """Some parameters at a time: which, and their gradients as (n, rows, columns), new tensors."""
        on_cpu = self.gradients[0].device.type == "cpu"
        size = max(1, CHUNK // (rows * columns)) if on_cpu else len(self.entries)
        for start in range(0, len(self.entries), size):
            part = slice(start, start + size)
            yield part, stacked(self.gradients[part], self.dtype).view(-1, rows, columns)


def stacked(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Tensors of one shape as one new tensor, its elements in the order of their indices."""
    return torch.stack([tensor.to(dtype, memory_format=torch.contiguous_format) for tensor in tensors])


def _are_rows(values: Sequence[Tensor], base: Tensor) -> bool:
    """Whether the values are the base's rows in their order."""
    if base.shape != (len(values), *values[0].shape) or not base.is_contiguous():
        return False
    step = values[0].nbytes
    places = range(base.data_ptr(), base.data_ptr() + len(values) * step, step) if step else ()
    return all(
        value._base is base and value.data_ptr() == place and value.is_contiguous()
        for value, place in zip(values, places, strict=False)
    )
