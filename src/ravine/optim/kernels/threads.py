"""Running a kernel with as many threads as torch has; the kernel itself shares out the rows."""

import ctypes
import functools
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .cpu import Kernel

ALONE = 1 << 16
"""Elements that one thread works on by itself: sharing them out takes as long as they do."""

Work = ctypes.c_int64 * 4
"""The table's address, its rows, the address of what the kernel is given, and the rows begun."""


def run(kernel: Kernel, table: int, rows: int, given: int, elements: int) -> None:
    """Run a kernel over a table.

    Args:
        kernel: compiled.
        table: the address of the rows.
        rows: how many there are.
        given: the address of the sets of scalars, or of where the answers go.
        elements: in all rows together.
    """
    work = Work(table, rows, given, 0)
    count = min(torch.get_num_threads(), rows)
    if elements < ALONE or count < 2:
        kernel.function(ctypes.addressof(work))
    elif (team := torchs_team()) is not None and not _forked:
        team(kernel.address, ctypes.addressof(work), count, 0)
    else:
        crew.run(kernel, work, count - 1)


@functools.cache
def torchs_team() -> Callable[[int, int, int, int], None] | None:
    """OpenMP's way to run a function in the threads that torch's own operators run in.

    They wait awake for some milliseconds after each operator: other threads would have to share the
    processor with them, and these start at once. None where torch was built with another runtime.
    """
    library = Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"
    try:
        team: Any = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    team.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    team.restype = None
    found: Callable[[int, int, int, int], None] = team
    return found


class Task(NamedTuple):
    """One thread's share of a kernel's work.

    Attributes:
        kernel: compiled.
        work: what its argument points to, kept alive until the last thread has ended.
        done: released at the end.
    """

    kernel: Kernel
    work: Any
    done: threading.Lock


class Crew:
    """Threads of our own, where torch's cannot be had; one kernel at a time may use them."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self.tasks: list[queue.SimpleQueue[Task]] = []

    def run(self, kernel: Kernel, work: Any, helpers: int) -> None:
        """Run a kernel in this thread and in `helpers` others, or alone where those are busy."""
        address = ctypes.addressof(work)
        if not self.free.acquire(blocking=False):
            kernel.function(address)
            return
        try:
            while len(self.tasks) < helpers:
                self.tasks.append(queue.SimpleQueue())
                threading.Thread(
                    target=serve, args=self.tasks[-1:], name="ravine kernel", daemon=True
                ).start()
            begun = []
            for tasks in self.tasks[:helpers]:
                done = threading.Lock()
                done.acquire()
                tasks.put(Task(kernel, work, done))
                begun.append(done)
            kernel.function(address)
            for done in begun:
                done.acquire()
        finally:
            self.free.release()


def serve(tasks: "queue.SimpleQueue[Task]") -> None:
    """A worker's life: wait for kernels and run them."""
    while True:
        task = tasks.get()
        task.kernel.function(ctypes.addressof(task.work))
        task.done.release()


crew = Crew()
_forked = False


def _after_fork() -> None:
    """Threads do not survive a fork, neither OpenMP's nor ours, and locks may have been held."""
    global crew, _forked
    crew = Crew()
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
