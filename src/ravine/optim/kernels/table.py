"""Tables of memory: what a kernel walks.

Each row says where one stretch of a parameter and of what belongs to it lies, how long it is, which set of
scalars holds there, and where the counts of its elements begin.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .llvm import Layout

CHUNK = 1 << 16
"""Elements of a row at most: what threads share out. Shorter rows made the memory slower, by measurement."""

Addresses = list[int]


class Table:
    """The rows of parameters that one kernel steps."""

    def __init__(
        self,
        layout: Layout,
        columns: Sequence[Sequence[Tensor]],
        sets: Sequence[int],
        members: Sequence[int],
        chunk: int = CHUNK,
    ) -> None:
        """Lay the rows out.

        Args:
            layout: the dtypes and the rounding.
            columns: for x, the state, the average and the remainder: the tensors, one a parameter. The
                gradients' place, the second, is left out.
            sets: the first set of scalars of each parameter.
            members: parts of each parameter along its leading axis, each with a set of its own.
            chunk: elements of a row at most.
        """
        sizes = [reals(tensor) for tensor in columns[0]]
        rows = [
            (owner, start, min(chunk, end - start), first + member)
            for owner, (size, first, parts) in enumerate(zip(sizes, sets, members, strict=True))
            for member in range(parts)
            for end in [(member + 1) * (size // parts)]
            for start in range(member * (size // parts), end, chunk)
        ]
        plan = np.array(rows, dtype=np.int64).reshape(-1, 4)
        self.elements = sum(sizes)
        self.owners, self.starts = plan[:, 0].copy(), plan[:, 1].copy()
        self.lengths, self.sets = plan[:, 2].copy(), plan[:, 3].copy()
        self.rows = np.zeros((len(rows), layout.columns + 3), dtype=np.int64)
        self.rows[:, layout.columns] = self.lengths
        self.rows[:, layout.columns + 1] = self.sets
        self.bytes = [dtype.itemsize for dtype in layout.dtypes] + [2]
        self.known: dict[int, Addresses] = {}
        self.moved: set[int] = set()
        for number, tensors in enumerate(columns[1:], start=2):
            self.point(number, [tensor.data_ptr() for tensor in tensors])

    @property
    def address(self) -> int:
        """Where the rows lie, brought up to date."""
        for column in self.moved:
            places = np.array(self.known[column], dtype=np.uint64).astype(np.int64)
            self.rows[:, column] = places[self.owners] + self.starts * self.bytes[column]
        self.moved.clear()
        return int(self.rows.ctypes.data)

    def point(self, column: int, addresses: Addresses) -> None:
        """Note where the parameters' values of a column lie now."""
        if self.known.get(column) != addresses:
            self.known[column] = addresses
            self.moved.add(column)

    def count_from(self, keys: "np.ndarray[Any, np.dtype[np.int64]]") -> None:
        """Note where the counts of the parameters' elements begin."""
        self.rows[:, -1] = keys[self.owners] + self.starts


def reals(tensor: Tensor) -> int:
    """Real numbers in a tensor."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def real_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of a tensor's real numbers."""
    return tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype
