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
