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


ALLOCATING = """
import resource, sys, torch
from ravine.memory import keep_freed
if "keep" in sys.argv:
    keep_freed()
def step():
    return [torch.ones(160_000) for _ in range(400)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's memory alone")
def test_memory_that_was_freed_is_kept():
    """Pages that the system has to clear and give: few, where it would be 250 MB at each step."""
    given, kept = (
        int(subprocess.run([sys.executable, "-c", ALLOCATING, *more], capture_output=True, check=True).stdout)
        for more in ([], ["keep"])
    )
    assert given > 100_000
    assert kept < given / 100
