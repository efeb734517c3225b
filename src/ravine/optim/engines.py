"""Which engine runs a rule for a parameter."""

import functools
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .kernels import cpu
from .kernels.eager import is_dense
from .kernels.llvm import STORED
from .kernels.table import real_dtype


def engine_of(tensors: Sequence[Tensor], members: int, wanted: str) -> str:
    """The engine for one parameter: "cpu", "gpu" or "eager".

    Args:
        tensors: the parameter, its gradient, its state and its average.
        members: parts along the leading axis with hyperparameters of their own; 1 where none have.
        wanted: the optimizer's `engine`, or "kernel" for that of the parameter's device.

    Raises:
        RuntimeError: an engine was asked for by name and cannot take this parameter.
    """
    if wanted == "eager":
        return "eager"
    kernel = kernel_of(tensors[0].device) if wanted in ("auto", "kernel") else wanted
    obstacle = _obstacle(tensors, members, kernel)
    if not obstacle:
        return kernel
    if wanted == "auto":
        return "eager"
    asked = "fused=True" if wanted == "kernel" else f"engine={wanted!r}"
    raise RuntimeError(f"{asked} cannot step a parameter of shape {tuple(tensors[0].shape)}: {obstacle}")


def kernel_of(device: torch.device) -> str:
    """The name of the kernel engine of a device; "eager" where there is none."""
    if device.type == "cpu":
        return "cpu"
    return "gpu" if device.type == "cuda" and has_triton() else "eager"


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed; it comes with torch on machines with a GPU."""
    return importlib.util.find_spec("triton") is not None


def interprets() -> bool:
    """Whether Triton runs kernels on the CPU, by its interpreter."""
    if not has_triton():
        return False
    import triton

    return bool(triton.knobs.runtime.interpret)


def triton_obstacle(device: torch.device) -> str:
    """Why Triton cannot run kernels on a device; empty where it can."""
    if not has_triton():
        return "Triton is not installed"
    if interprets():
        return "" if device.type == "cpu" else "Triton's interpreter is on, and works on the CPU alone"
    if device.type != "cuda":
        return f"a tensor of it is on {device}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0):
        return "Triton needs a GPU of compute capability 7.0 or above"
    return launcher_obstacle()


@functools.cache
def launcher_obstacle() -> str:
    """What Triton lacks on this machine to make what starts its kernels, in C; empty if nothing."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler (gcc or clang)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Triton needs Python's C headers (the package python3-dev or python3-devel)"
    return ""


def _obstacle(tensors: Sequence[Tensor], members: int, kernel: str) -> str:
    """Why a kernel cannot take these tensors; empty where it can."""
    x = tensors[0]
    if kernel == "eager":
        return f"there is no kernel for {x.device.type}"
    if kernel == "cpu" and x.device.type != "cpu":
        return f"a tensor of it is on {x.device}"
    if kernel == "gpu" and (obstacle := triton_obstacle(x.device)):
        return obstacle
    strides = x.stride() if x.layout is torch.strided else ()
    for tensor in tensors:
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return f"it is a {type(tensor).__name__}"
        if tensor.layout is not torch.strided:
            return "its gradient is sparse"
        if tensor.device != x.device:
            return f"a tensor of it is on {tensor.device}"
        dtype = real_dtype(tensor)
        if dtype not in STORED or (kernel == "cpu" and not cpu.stores(dtype)):
            return f"its dtype is {tensor.dtype}"
        if tensor.stride() != strides or tensor.is_complex() != x.is_complex():
            return "its gradient or state is laid out in another way"
        if tensor.is_conj() or tensor.is_neg():
            return "it is a lazy conjugate"
    if not is_dense(x):
        return "it has gaps in memory"
    if members > 1 and x.numel() and x.stride(0) * members != x.numel():
        return "its leading axis is not its outermost"
    return ""
