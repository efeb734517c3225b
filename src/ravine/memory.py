"""The memory of this process: how much is free, what is kept of it, and advice where it runs out."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MemoryLimitError

if TYPE_CHECKING:
    import torch

# What torch says in a plain RuntimeError, where the machine or the accelerator has no more to give.
_SIGNS = ("allocate memory", "out of memory")
# Numbers of glibc's malloc.h, and in bytes what they are set to; the second can be no larger.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = (-1, 1 << 30), (-3, 32 << 20)


@contextmanager
def memory_told() -> Iterator[None]:
    """Turn running out of memory into advice.

    Raises:
        MemoryLimitError: where Python, numpy or torch found no more memory inside the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        raise MemoryLimitError(
            "memory ran out. Lower data.batch_size (and raise optimizer.accumulate to make up for it), "
            "data.image_size, data.memory_gb or the model's width; predict fewer items at once. Checkpoints "
            "written before are whole."
        ) from error


@contextmanager
def collection_postponed() -> Iterator[None]:
    """Within, Python does not look for cycles: with torch loaded, one look takes a fifth of a second."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def is_memory_error(error: BaseException) -> bool:
    """Whether Python, numpy or torch found no more memory."""
    told = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    return told or isinstance(error, MemoryError)


def free_bytes(device: "torch.device") -> int | None:
    """The memory that is free for new tensors on a device; None where the system does not tell."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    told = Path("/proc/meminfo")
    if device.type != "cpu" or not told.exists():
        return None
    rows = (line.split() for line in told.read_text().splitlines())
    return next((1024 * int(row[1]) for row in rows if row[0] == "MemAvailable:"), None)


def keep_freed() -> None:
    """Keep memory that was freed for the next tensors of this process, from now on, where glibc gives it.

    Else glibc gives blocks of a few hundred kilobytes back at every step, and has the system clear them,
    page by page, at the next.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # it is another library's
        return
    for setting in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        mallopt(*setting)
