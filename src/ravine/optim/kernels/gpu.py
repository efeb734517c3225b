"""Lanes on a GPU, by Triton: one launch a step, and nothing that waits for the GPU.

What a kernel reads besides the parameters - rows, addresses, scalars, keys - lies on the GPU. What changes
of it is copied there from pinned memory, in the stream that the kernel runs in, so the host goes on at once.
Numbers that are on the GPU already (the scale of clipping; step counts and rates of `capturable` optimizers)
are copied within it.

A CUDA graph repeats its copies whenever it is replayed, so what they copy from is kept and never changed;
the lane's next step outside of the graph uploads everything anew.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from . import rounding, triton_source
from .lane import Lane
from .llvm import Layout
from .table import Table
from .trace import Program
from .triton_compile import compiled

Array = np.ndarray[Any, np.dtype[Any]]

_captured: list[object] = []
"""What CUDA graphs read. Nobody tells when a graph is gone, and it is little beside the parameters."""


class GpuLane(Lane):
    """Parameters in a GPU's memory or, for Triton's interpreter, in this machine's."""

    chunk: ClassVar[int] = triton_source.CHUNK

    def __init__(
        self, program: Program, layout: Layout, table: Table, sets: int, device: torch.device
    ) -> None:
        """As for every lane.

        Raises:
            RuntimeError: a CUDA graph is being captured.
        """
        super().__init__(program, layout, table, sets, device)
        self.kernel = compiled(triton_source.kernel(program, layout))
        kept = np.float64 if layout.wide is torch.float64 else np.float32
        self.host = np.zeros((sets, program.slots), dtype=kept)
        self.late: list[tuple[slice, int, Tensor]] = []
        self.addresses: Tensor | None = None
        self.sent: Array | None = None
        self.addressed: tuple[Tensor, Tensor] | None = None
        self.by_set: Tensor | None = None
        self.reserve: dict[str, Tensor] = {}
        self.in_graph = self.looked = False
        with self._on_device():
            if capturing(device):
                raise RuntimeError(
                    "an optimizer makes its tables in its first steps: take three before a CUDA graph is "
                    "captured, with gradients for the same parameters"
                )
            rows = np.stack([table.owners, table.starts, table.lengths, table.sets], axis=1)
            self.rows = upload(rows, device)
            self.keys = torch.zeros(1, dtype=torch.int64, device=device)
            self.scalars = upload(self.host, device)

    def fill(self, first: int, members: int, scalars: Sequence[Any]) -> None:
        """As for every lane."""
        sets = slice(first, first + members)
        with np.errstate(over="ignore"):  # a rate beyond float32 is infinite there, as it is for torch
            for slot, value in enumerate(scalars):
                if isinstance(value, Tensor) and value.device.type == self.device.type:
                    self.late.append((sets, slot, value))
                    self.host[sets, slot] = np.nan  # whatever comes from the host later is another value
                else:
                    self.host[sets, slot] = value

    def count(self, numbers: Sequence[int], cohorts: Sequence[int], steps: Mapping[int, Any]) -> None:
        """As for every lane.

        Raises:
            RuntimeError: a CUDA graph is being captured and the steps are not on the GPU: each replay would
                have the same random bits.
        """
        with self._on_device():
            if all(isinstance(step, Tensor) for step in steps.values()):
                self.keys = self._addressed(numbers, cohorts, steps)
                return
            if capturing(self.device):
                raise RuntimeError(
                    "stochastic rounding in a CUDA graph needs step counts on the GPU: make the optimizer "
                    "with capturable=True if it takes that, or else with rounding='compensated'"
                )
            keys = rounding.keys(numbers, [float(steps[cohort]) for cohort in cohorts])
            self.keys = upload(keys, self.device)

    def squares(self) -> Tensor:
        """As for every lane; on the device."""
        rows = len(self.table.owners)
        with self._on_device():
            self._look()
            sums = torch.zeros(rows + 1, dtype=torch.float64, device=self.device)
            if rows:
                kernel = compiled(triton_source.squares(self.layout))
                kernel[(rows,)](self.rows, self._addresses(), sums)
            if self.sets == 1:
                return sums.sum().view(1)
            if self.by_set is None:
                self.by_set = upload(by_set(self.table.sets, self.sets), self.device)
            return sums[self.by_set].sum(1)  # atomic additions would come in another order each time

    def run(self) -> None:
        """As for every lane."""
        rows = len(self.table.owners)
        with self._on_device():
            if rows:
                self._look()
                addresses, scalars = self._addresses(), self._scalars()
                tables = self.rows, addresses, scalars, self.keys
                self.kernel[(rows,)](*tables, enable_fp_fusion=False)  # it says itself what is fused
        self.late.clear()
        self.looked = False

    def _on_device(self) -> contextlib.AbstractContextManager[Any]:
        if self.device.type == "cuda":
            return torch.cuda.device(self.device)
        return contextlib.nullcontext()

    def _look(self) -> None:
        """Once a step. In a graph, and in the first step after it, what was sent before is another's."""
        if self.looked:
            return
        inside = capturing(self.device)
        if inside or self.in_graph:
            self.addresses = self.sent = None
        if inside and not self.in_graph:
            _captured.append(self)
        self.in_graph, self.looked = inside, True

    def _send(self, name: str, array: Array) -> Tensor:
        """Upload what changes; in a graph from memory pinned before, which older torch cannot do in there."""
        if capturing(self.device):
            return upload(array, self.device, self.reserve.pop(name, None))
        if self.device.type == "cuda" and name not in self.reserve:
            self.reserve[name] = torch.empty_like(torch.from_numpy(array), pin_memory=True)
        return upload(array, self.device)

    def _addresses(self) -> Tensor:
        if self.addresses is None or self.table.moved:
            known = self.table.known
            columns = [np.array(known[column], dtype=np.uint64) for column in range(self.layout.columns)]
            self.addresses = self._send("addresses", np.stack(columns, axis=1).astype(np.int64))
            self.table.moved.clear()
        return self.addresses

    def _scalars(self) -> Tensor:
        if self.sent is None or not np.array_equal(self.host, self.sent, equal_nan=True):
            self.scalars = self._send("scalars", self.host)
            self.sent = self.host.copy()
        for sets, slot, value in self.late:
            self.scalars[sets, slot].copy_(value, non_blocking=True)
        return self.scalars

    def _addressed(
        self, numbers: Sequence[int], cohorts: Sequence[int], steps: Mapping[int, Tensor]
    ) -> Tensor:
        """The keys, worked out on the device."""
        if self.addressed is None:
            ranks = {cohort: rank for rank, cohort in enumerate(steps)}
            places = upload(rounding.places(numbers).numpy(), self.device)
            self.addressed = places, upload(np.array([ranks[cohort] for cohort in cohorts]), self.device)
        places, which = self.addressed
        return rounding.addressed(places, torch.stack(list(steps.values()))[which])


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured on the current stream of the current device."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def upload(array: Array, device: torch.device, pinned: Tensor | None = None) -> Tensor:
    """A new tensor with the array's present values; on a GPU it is theirs when the stream comes to it.

    Args:
        array: which may be changed at once.
        device: where the tensor is to be.
        pinned: memory to copy from, of the array's shape and dtype; None: new.
    """
    source = torch.from_numpy(array)
    if device.type != "cuda":
        return source.clone()
    pinned = source.pin_memory() if pinned is None else pinned.copy_(source)
    if capturing(device):
        _captured.append(pinned)
    return pinned.to(device, non_blocking=True)


def by_set(sets: Array, count: int) -> Array:
    """For each set the numbers of its rows, filled up with the number after the last row."""
    sizes = np.bincount(sets, minlength=count)
    rows = np.full((count, sizes.max(initial=0)), len(sets))
    order = np.argsort(sets, kind="stable")
    rows[sets[order], np.arange(len(sets)) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = order
    return rows
