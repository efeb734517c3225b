"""Running out of memory, told as advice."""

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MemoryLimitError

# What torch says in a plain RuntimeError, where the machine or the accelerator has no more to give.
_SIGNS = ("allocate memory", "out of memory")


@contextmanager
def memory_told() -> Iterator[None]:
    """Turn running out of memory into advice.

    Raises:
        MemoryLimitError: where Python, numpy or torch found no more memory inside the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in _SIGNS):
            raise
        raise MemoryLimitError(
            "memory ran out. Lower data.batch_size (and raise optimizer.accumulate to make up for it), "
            "data.image_size, data.memory_gb or the model's width; predict fewer items at once. Checkpoints "
            "written before are whole."
        ) from error
