"""Python threads that run one kernel together; the kernel itself shares out the rows."""

import ctypes
import os
import queue
import threading
from typing import NamedTuple

import torch

from .cpu import Kernel

ALONE = 1 << 19
"""Elements that one thread works on by itself: waking another takes as long as they do."""


class Task(NamedTuple):
    """One thread's share of a kernel's work.

    Attributes:
        kernel: compiled.
        arguments: the kernel's.
        taken: what the last of them points to, kept alive until the last thread has ended.
        done: released at the end.
    """

    kernel: Kernel
    arguments: tuple[int, int, int, int]
    taken: ctypes.c_int64
    done: threading.Lock


class Worker:
    """A thread that waits for kernels to run."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="ravine kernel", daemon=True).start()

    def _serve(self) -> None:
        while True:
            task = self.tasks.get()
            task.kernel.function(*task.arguments)
            task.done.release()


class Crew:
    """The workers of this process, one fewer than torch has threads; one kernel at a time may use them."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self.workers: list[Worker] = []

    def run(
        self, kernel: Kernel, arguments: tuple[int, int, int, int], taken: ctypes.c_int64, helpers: int
    ) -> None:
        """Run a kernel in this thread and in `helpers` others, or alone where those are busy."""
        if not self.free.acquire(blocking=False):
            kernel.function(*arguments)
            return
        try:
            while len(self.workers) < helpers:
                self.workers.append(Worker())
            begun = []
            for worker in self.workers[:helpers]:
                done = threading.Lock()
                done.acquire()
                worker.tasks.put(Task(kernel, arguments, taken, done))
                begun.append(done)
            kernel.function(*arguments)
            for done in begun:
                done.acquire()
        finally:
            self.free.release()


crew = Crew()


def _after_fork() -> None:
    """Threads do not survive a fork, and a lock may have been held: the child begins anew."""
    global crew
    crew = Crew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(kernel: Kernel, table: int, rows: int, given: int, elements: int) -> None:
    """Run a kernel over a table.

    Args:
        kernel: compiled.
        table: the address of the rows.
        rows: how many there are.
        given: the address of the kernel's third argument.
        elements: in all rows together.
    """
    taken = ctypes.c_int64(0)
    arguments = (table, rows, given, ctypes.addressof(taken))
    helpers = min(torch.get_num_threads(), rows) - 1
    if elements < ALONE or helpers < 1:
        kernel.function(*arguments)
    else:
        crew.run(kernel, arguments, taken, helpers)
