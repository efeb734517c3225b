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


FREED = """
import sys, psutil, torch
from ravine.memory import keep_freed
if "keep" in sys.argv:
    keep_freed()
before = psutil.Process().memory_info().rss
tensors = [torch.ones(160_000) for _ in range(400)]
del tensors
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's memory alone")
def test_memory_that_was_freed_is_kept():
    """Of 256 MB in small blocks: nearly all, where nearly nothing was."""
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", FREED, *more], capture_output=True, check=True).stdout)
        for more in ([], ["keep"])
    )
    assert given_back < 100e6
    assert kept > 200e6
