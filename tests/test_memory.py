import platform
import subprocess
import sys

import pytest
import torch

from ravine.errors import MemoryLimitError
from ravine.memory import memory_told


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_running_out_of_memory_is_told_as_advice(error):
    with pytest.raises(MemoryLimitError, match=r"data\.batch_size") as caught, memory_told():
        raise error
    assert caught.value.__cause__ is error


def test_other_errors_pass():
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as caught, memory_told():
        raise error
    assert caught.value is error


BLOCKS = """
import ctypes, sys
from ravine.memory import keep_freed
if "keep" in sys.argv:
    keep_freed()
libc = ctypes.CDLL(None)
class Told(ctypes.Structure):
    _fields_ = [(str(at), ctypes.c_size_t) for at in range(10)]
libc.mallinfo2.restype = Told
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
mapped = lambda: getattr(libc.mallinfo2(), "4")
before = mapped()
blocks = [libc.malloc(8 << 20) for _ in range(16)]
print(mapped() - before)
for block in reversed(blocks):
    libc.free(block)
print(getattr(libc.mallinfo2(), "9"))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's memory alone")
def test_memory_that_was_freed_is_kept():
    """Blocks of 8 MiB come from the heap, whose free end is kept; not from the system, one by one."""
    (mapped, _), (mapped_by_us, kept) = (
        map(int, subprocess.run([sys.executable, "-c", BLOCKS, *more], stdout=-1, check=True).stdout.split())
        for more in ([], ["keep"])
    )
    assert mapped >= 16 * 8 << 20
    assert mapped_by_us == 0 and kept >= 16 * 8 << 20
