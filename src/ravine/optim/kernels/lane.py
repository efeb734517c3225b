"""A lane: parameters that one compiled kernel steps together, whatever their groups."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from . import cpu, rounding, threads
from .llvm import Layout
from .table import CHUNK, Table
from .trace import Program


class Lane(ABC):
    """One program, one layout, one table of rows, and the sets of scalars its rows name."""

    chunk: ClassVar[int] = CHUNK
    """Elements of a row at most."""

    def __init__(
        self, program: Program, layout: Layout, table: Table, sets: int, device: torch.device
    ) -> None:
        """`sets`: how many sets of scalars the table's rows name."""
        self.program = program
        self.layout = layout
        self.table = table
        self.sets = sets
        self.device = device

    @abstractmethod
    def fill(self, first: int, members: int, scalars: Sequence[Any]) -> None:
        """Set the scalars of some sets.

        Args:
            first: the first set.
            members: how many sets.
            scalars: for each slot a number, a 0-dim tensor, or a float64 tensor of one value a set.
        """

    @abstractmethod
    def count(self, numbers: Sequence[int], cohorts: Sequence[int], steps: Mapping[int, Any]) -> None:
        """Set what random bits are hashed from; where rounding is "stochastic".

        Args:
            numbers: each parameter's place in the optimizer.
            cohorts: the number of each parameter's cohort.
            steps: each cohort's step: a number or a 0-dim tensor.
        """

    @abstractmethod
    def squares(self) -> Any:
        """The sums of the squared gradients, one a set: float64."""

    @abstractmethod
    def run(self) -> None:
        """Step every parameter."""


class CpuLane(Lane):
    """Parameters in this machine's memory."""

    def __init__(
        self, program: Program, layout: Layout, table: Table, sets: int, device: torch.device
    ) -> None:
        """As for every lane; compiles the kernel if need be."""
        super().__init__(program, layout, table, sets, device)
        kept = np.float64 if layout.wide is torch.float64 else np.float32
        self.scalars = np.zeros((sets, program.slots), dtype=kept)
        self.kernel = cpu.update_kernel(program, layout)

    def fill(self, first: int, members: int, scalars: Sequence[Any]) -> None:
        """As for every lane."""
        with np.errstate(over="ignore"):  # a rate beyond float32 is infinite there, as it is for torch
            if members == 1:
                self.scalars[first] = scalars
                return
            for slot, value in enumerate(scalars):
                self.scalars[first : first + members, slot] = value

    def count(self, numbers: Sequence[int], cohorts: Sequence[int], steps: Mapping[int, Any]) -> None:
        """As for every lane."""
        self.table.count_from(rounding.keys(numbers, [float(steps[cohort]) for cohort in cohorts]))

    def squares(self) -> Tensor:
        """As for every lane; on the CPU."""
        table = self.table
        sums = np.zeros(len(table.rows))
        kernel = cpu.squares_kernel(self.layout)
        threads.run(kernel, table.address, len(sums), sums.ctypes.data, table.elements)
        return torch.from_numpy(np.bincount(table.sets, weights=sums, minlength=self.sets))

    def run(self) -> None:
        """As for every lane."""
        table = self.table
        threads.run(self.kernel, table.address, len(table.rows), self.scalars.ctypes.data, table.elements)


def lane_of(engine: str) -> type[Lane]:
    """A kernel engine's lanes."""
    if engine == "gpu":
        from .gpu import GpuLane  # it is a lane itself

        return GpuLane
    return CpuLane
