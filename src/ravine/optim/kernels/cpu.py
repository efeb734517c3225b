"""Kernels for this machine's processor, compiled in some 30 ms.

LLVM compiles what `llvm.py` prints, in memory: no compiler is needed on the machine, and no cache on disk.
"""

import ctypes
import functools
import os
import platform
import threading
from collections.abc import Callable
from typing import NamedTuple

import torch

from . import llvm
from .llvm import Layout
from .trace import Program

Function = Callable[[int], None]


class Kernel(NamedTuple):
    """A compiled kernel.

    Attributes:
        function: takes the address of the work (`llvm.kernel`); it runs without the GIL.
        address: of the function.
        keep: what must live as long as the function does.
    """

    function: Function
    address: int
    keep: object


_compiling = threading.Lock()


def _after_fork() -> None:
    """The lock may have been held by a thread that the child does not have."""
    global _compiling
    _compiling = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def update_kernel(program: Program, layout: Layout) -> Kernel:
    """The kernel of a program for such memory, compiled once a process."""
    return build(llvm.kernel(program, layout))


@functools.cache
def squares_kernel(layout: Layout) -> Kernel:
    """The kernel that sums the squares of each row's gradient."""
    return build(llvm.squares(layout))


@functools.cache
def stores(dtype: torch.dtype) -> bool:
    """Whether kernels on this processor can read and write a dtype."""
    if dtype is torch.float16:
        import llvmlite.binding as binding

        on_x86 = platform.machine().lower() in ("x86_64", "amd64")
        return not on_x86 or bool(binding.get_host_cpu_features().get("f16c"))
    return dtype in llvm.STORED


def build(text: str) -> Kernel:
    """Compile LLVM IR that defines `run(ptr)`."""
    import llvmlite.binding as binding

    with _compiling:  # LLVM's own state is not made for two threads
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        module = binding.parse_assembly(text)
        machine = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(),
            features=binding.get_host_cpu_features().flatten(),
            opt=3,
            jit=True,
        )
        passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
        passes.getModulePassManager().run(module, passes)
        engine = binding.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        address = engine.get_function_address("run")
    return Kernel(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address), address, engine)
